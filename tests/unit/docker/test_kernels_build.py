# SPDX-License-Identifier: AGPL-3.0-or-later
"""The builder of the `yolov12_kernels` wheel, with compilers that are stood in for by scripts."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

HERE = Path(__file__).resolve().parents[3] / "docker/kernels"
NVCC_KNOWS = ["75", "80", "86", "87", "88", "89", "90", "100", "110", "103", "120", "121"]


def program() -> ModuleType:
    """build.py under another name, since docker/flash_attn has one too."""
    spec = importlib.util.spec_from_file_location("kernels_build", HERE / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


build = program()


# ---- archs ----


@pytest.mark.parametrize(
    ("archs", "codes"),
    [
        ("90", ["90"]),
        ("75 80 86 90 100 120", ["75", "80", "86", "90", "100", "120"]),
        ("120 90 80", ["80", "90", "120"]),
        ("86 89", ["86"]),
        ("89", ["86"]),
    ],
)
def test_each_arch_has_code_of_its_own_but_for_one(archs: str, codes: list[str]):
    assert build.code_archs(archs, NVCC_KNOWS) == codes


@given(st.lists(st.sampled_from(NVCC_KNOWS), min_size=1))
def test_code_is_of_the_major_version_of_each_gpu_that_it_serves(archs: list[str]):
    codes = build.code_archs(" ".join(archs), NVCC_KNOWS)
    for arch in archs:
        assert [code for code in codes if int(code) // 10 == int(arch) // 10 and int(code) <= int(arch)]


@pytest.mark.parametrize(
    ("archs", "sentence"),
    [
        ("90 91", "ARCHS='90 91': 91 not known; nvcc knows 75 80"),
        ("sm_90", "ARCHS='sm_90': sm_90 not known; nvcc knows 75 80"),
        (" ", "ARCHS=' ' names no GPU: choose from 75 80"),
    ],
)
def test_an_arch_that_can_not_be_served_is_one_sentence(archs: str, sentence: str):
    with pytest.raises(build.BuildError) as error:
        build.code_archs(archs, NVCC_KNOWS)
    assert str(error.value).startswith(sentence)


def test_the_archs_of_the_matrix_run_the_code_that_it_names(repository):
    archs = yaml.safe_load((repository / "env/matrix.yaml").read_text())["archs"]
    for arch, entry in archs.items():
        assert build.code_archs(arch, NVCC_KNOWS) == [entry["code"]]


# ---- the whole program ----


NVCC = """
case $1 in
--version) echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit ;;
--list-gpu-code) printf 'sm_75\\nsm_80\\nsm_86\\nsm_89\\nsm_90\\n'; exit ;;
esac
echo "$@" >>"$LOG"
ls >>"$LOG.files"
while [ "$1" != -o ]; do shift; done
echo object >"$2"
"""
GXX = """
echo "$@" >>"$LOG"
while [ "$1" != -o ]; do shift; done
echo library >"$2"
"""


def script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> dict[str, object]:
    """Arguments of a build that works; the compilers write what they were asked to a log."""
    script(tmp_path / "cuda/bin/nvcc", NVCC)
    script(tmp_path / "bin/g++", GXX)
    script(tmp_path / "bin/python", """echo '["/torch", "9.9.1+cu130", "13.0", true]'""")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return {
        "--archs": "80 89 90",
        "--cuda-home": tmp_path / "cuda",
        "--torch-python": tmp_path / "bin/python",
        "--out": tmp_path / "out",
    }


def run(arguments: dict[str, object]) -> int:
    return build.main([str(word) for pair in arguments.items() for word in pair])


def commands(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "log").read_text().splitlines()]


def test_paths_are_read_where_they_are_typed(machine, tmp_path, monkeypatch):
    """The compilers run in a folder of their own, and the interpreter in another."""
    monkeypatch.chdir(tmp_path)
    assert run(machine | {"--cuda-home": "cuda", "--torch-python": "bin/python", "--out": "out"}) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_build_makes_a_wheel_with_library_package_and_facts(machine, tmp_path):
    assert run(machine) == 0
    (made,) = (tmp_path / "out").iterdir()
    assert made.name.startswith(f"yolov12_kernels-{build.VERSION}+sm80.sm86.sm90-py3-none-linux_")
    with zipfile.ZipFile(made) as archive:
        assert archive.read("yolov12_kernels/_kernels.so") == b"library\n"
        package = {file.name for file in (HERE / "package/yolov12_kernels").glob("*.py")}
        assert {f"yolov12_kernels/{name}" for name in package} <= set(archive.namelist())
        facts: dict[str, object] = {}
        exec(archive.read("yolov12_kernels/_build.py").decode(), facts)
    assert {name: facts[name] for name in ("VERSION", "ARCHS", "TORCH", "CUDA")} == {
        "VERSION": f"{build.VERSION}+sm80.sm86.sm90",
        "ARCHS": ["80", "86", "90"],
        "TORCH": "9.9.1",
        "CUDA": "13.0",
    }


def test_a_build_can_be_repeated_to_the_byte_and_leaves_nothing_behind(machine, tmp_path):
    assert run(machine) == run(machine | {"--out": tmp_path / "again"}) == 0
    first, again = (next((tmp_path / name).iterdir()) for name in ("out", "again"))
    assert (first.name, first.read_bytes()) == (again.name, again.read_bytes())
    assert list((tmp_path / "tmp").iterdir()) == []


def test_every_source_of_the_folder_is_compiled_or_included(machine, tmp_path):
    run(machine)
    assert {path.name for path in HERE.iterdir() if path.suffix in (".cu", ".cuh", ".h", ".cpp")} == set(build.SOURCES)
    assert set(build.SOURCES) <= set((tmp_path / "log.files").read_text().split())


def test_the_kernels_are_compiled_for_each_code_arch_without_ptx(machine, tmp_path):
    run(machine)
    (line,) = [line for line in commands(tmp_path) if "batch_norm_apply.cu" in line]
    targets = [word for word in line if word.startswith("-gencode")]
    assert targets == [f"-gencode=arch=compute_{code},code=sm_{code}" for code in ("80", "86", "90")]
    assert "-frandom-seed=batch_norm_apply" in line


def test_those_that_are_others_to_the_bit_are_compiled_without_fused_multiply_adds(machine, tmp_path):
    run(machine)
    assert {line[-3] for line in commands(tmp_path) if "-fmad=false" in line} == {
        "augment.cu",
        "letterbox.cu",
        "suppress.cu",
        "survive.cu",
    }


def test_no_path_of_the_machine_gets_into_an_object(machine, tmp_path):
    """Sources have relative names, and torch's headers one that is the same everywhere."""
    run(machine)
    for line in commands(tmp_path):
        paths = [word.lstrip("-L") for word in line if word.lstrip("-L").startswith("/")]
        assert all(path.startswith(("/torch", str(tmp_path / "cuda"))) for path in paths), line
    (ops,) = [line for line in commands(tmp_path) if "batch_norm_act_ops.cpp" in line]
    assert "-fmacro-prefix-map=/torch=torch" in ops


def test_no_source_sees_python(machine):
    assert not [name for name in build.SOURCES if "Python.h" in (HERE / name).read_text()]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"--archs": "91"}, "ARCHS='91': 91 not known"),
        ({"--cuda-home": "/nowhere"}, "--cuda-home /nowhere: bin/nvcc does not run"),
        ({"--torch-python": "/nowhere"}, "--torch-python /nowhere does not run"),
        ({"--torch-python": "/bin/false"}, "--torch-python /bin/false can not import torch: no message"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(machine, tmp_path, capsys, changed, sentence):
    assert run(machine | changed) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"kernels: {sentence}")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_torch_of_another_cuda_is_named(machine, tmp_path, capsys):
    script(tmp_path / "bin/python", """echo '["/torch", "9.9.1+cu128", "12.8", true]'""")
    assert run(machine) == 2
    assert "nvcc is of CUDA 13.0, and torch 9.9.1+cu128 of CUDA 12.8" in capsys.readouterr().err


def test_a_compiler_error_ends_in_a_sentence_with_its_first_line(machine, tmp_path, capsys):
    script(tmp_path / "bin/g++", "echo 'augment_ops.cpp:7: error: no such type' >&2; exit 1")
    assert run(machine) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "kernels: g++ failed on augment_ops.o: augment_ops.cpp:7: error: no such type"
    )
