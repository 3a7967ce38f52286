# SPDX-License-Identifier: AGPL-3.0-or-later
"""The builder of the `flash_attn` wheel, with compilers that are stood in for by scripts and a made-up sdist."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

HERE = Path(__file__).resolve().parents[3] / "docker/flash_attn"
sys.path.insert(0, str(HERE))  # as Python does for a program
build = importlib.import_module("build")
sources = importlib.import_module("hd32_sources")
sys.path.remove(str(HERE))

TOP = "flash_attn-1.2.3"
CUTLASS_HEADER = """/****************
 * Copyright (c) 2017 Somebody
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * 1. Redistributions must
 *    keep this.
 ****************/
#pragma once
"""


def upstream() -> dict[str, str]:
    """The files of an sdist that the build touches, and one that it does not."""
    edited = {edit.file: f"before\n{edit.old} after\n" for edit in sources.EDITS}
    kernels = {f"{sources.SOURCES}/{name}": "kernel" for name in sources.KERNELS}
    return {
        **edited,
        **kernels,
        f"{sources.CUTLASS}/cutlass/cutlass.h": CUTLASS_HEADER,
        "LICENSE": "BSD 3-Clause License\n",
        "AUTHORS": "Somebody\n",
        "csrc/composable_kernel/huge.hpp": "not needed",
    }


def make_sdist(folder: Path, files: dict[str, str]) -> Path:
    sdist = folder / f"{TOP}.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{TOP}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return sdist


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- archs ----


@pytest.mark.parametrize(
    ("archs", "codes"),
    [
        ("90", ["90"]),
        ("80 90", ["80", "90"]),
        ("120 75 80 86 89 90 100", ["80", "90", "100", "120"]),
        ("86 89", ["80"]),
    ],
)
def test_gpus_are_mapped_to_the_code_that_serves_them(archs, codes):
    assert build.code_archs(archs)[0] == codes


def test_each_arch_has_its_reason():
    assert build.code_archs("90 86 75 80")[1] == [
        "sm_75: no FlashAttention before sm_80, so torch's SDPA serves it",
        "sm_80: code of its own",
        "sm_86: runs the code for sm_80",
        "sm_90: code of its own",
    ]


@pytest.mark.parametrize(
    ("archs", "sentence"),
    [
        ("91", "ARCHS='91': 91 not known; choose from 75 80 86 89 90 100 120"),
        ("80 sm_90", "ARCHS='80 sm_90': sm_90 not known; choose from"),
        ("", "ARCHS='' names no GPU that FlashAttention has code for (sm_80 and newer)"),
        ("75", "ARCHS='75' names no GPU that FlashAttention has code for (sm_80 and newer)"),
    ],
)
def test_an_arch_that_can_not_be_served_is_one_sentence(archs, sentence):
    with pytest.raises(build.BuildError) as error:
        build.code_archs(archs)
    assert str(error.value).startswith(sentence)


@given(st.lists(st.sampled_from(sorted(build.CODE_FOR)), min_size=1))
def test_code_is_of_the_major_version_of_each_gpu_that_it_serves(archs):
    try:
        codes, reasons = build.code_archs(" ".join(archs))
    except build.BuildError:
        assert set(archs) == {"75"}
        return
    assert len(reasons) == len(set(archs))
    for arch in set(archs) - {"75"}:
        assert [code for code in codes if int(code) // 10 == int(arch) // 10 and int(code) <= int(arch)]


def test_each_arch_of_the_matrix_is_known(repository):
    matrix = yaml.safe_load((repository / "env/matrix.yaml").read_text())
    assert set(matrix["archs"]) == set(build.CODE_FOR)


# ---- sources ----


def test_only_what_is_compiled_is_unpacked(tmp_path):
    sources.unpack(make_sdist(tmp_path, upstream()), tmp_path / "root")
    assert (tmp_path / "root/LICENSE").read_text() == "BSD 3-Clause License\n"
    assert (tmp_path / f"root/{sources.SOURCES}/{sources.KERNELS[0]}").exists()
    assert not (tmp_path / "root/csrc/composable_kernel").exists()


def test_a_member_outside_of_the_build_folder_is_refused(tmp_path):
    sdist = make_sdist(tmp_path, {f"{sources.SOURCES}/../../../../evil.h": "x"})
    with pytest.raises(build.BuildError, match=r"evil\.h, which would be written outside"):
        sources.unpack(sdist, tmp_path / "root")


def test_a_file_that_is_no_archive_is_one_sentence(tmp_path):
    (tmp_path / "a.tar.gz").write_text("<html>404</html>")
    with pytest.raises(build.BuildError, match=r"a\.tar\.gz can not be unpacked"):
        sources.unpack(tmp_path / "a.tar.gz", tmp_path / "root")


def test_another_hash_is_one_sentence_with_both(tmp_path):
    sdist = make_sdist(tmp_path, {})
    sources.verify(sdist, sha256(sdist))
    with pytest.raises(build.BuildError, match=f"has sha256 {sha256(sdist)}, and the pin is {'0' * 64}"):
        sources.verify(sdist, "0" * 64)
    with pytest.raises(build.BuildError, match="no such file"):
        sources.verify(tmp_path / "missing.tar.gz", "0" * 64)


def test_each_edit_replaces_its_text_and_has_a_reason(tmp_path):
    sources.unpack(make_sdist(tmp_path, upstream()), tmp_path)
    sources.apply(sources.EDITS, tmp_path)
    for edit in sources.EDITS:
        text = (tmp_path / edit.file).read_text()
        assert edit.why
        assert text == f"before\n{edit.new} after\n"


@pytest.mark.parametrize(("text", "count"), [("something else", 0), ("{old} {old}", 2)])
def test_an_edit_whose_text_is_not_there_once_is_one_sentence_that_names_it(tmp_path, text, count):
    edit = sources.EDITS[0]
    sources.unpack(make_sdist(tmp_path, upstream() | {edit.file: text.format(old=edit.old)}), tmp_path)
    with pytest.raises(build.BuildError) as error:
        sources.apply(sources.EDITS, tmp_path)
    assert str(error.value).startswith(f"{edit.file} holds {edit.old!r} {count} times, not once")


def test_an_edit_of_a_file_that_is_gone_is_one_sentence_that_names_it(tmp_path):
    with pytest.raises(build.BuildError, match=rf"the sdist has no {sources.EDITS[0].file}"):
        sources.apply(sources.EDITS, tmp_path)


def test_both_licences_are_taken_from_the_sdist(tmp_path):
    sources.unpack(make_sdist(tmp_path, upstream()), tmp_path)
    texts = sources.licences(tmp_path)
    assert texts["LICENSE.flash-attention"] == "BSD 3-Clause License\n"
    assert texts["AUTHORS.flash-attention"] == "Somebody\n"
    assert texts["LICENSE.cutlass"] == (
        "Copyright (c) 2017 Somebody\nSPDX-License-Identifier: BSD-3-Clause\n\n1. Redistributions must\nkeep this.\n"
    )


def test_a_missing_or_changed_licence_fails_the_build(tmp_path):
    files = upstream()
    del files["LICENSE"]
    sources.unpack(make_sdist(tmp_path, files), tmp_path / "a")
    with pytest.raises(build.BuildError, match="the sdist has no LICENSE, which must travel"):
        sources.licences(tmp_path / "a")
    files = upstream() | {f"{sources.CUTLASS}/cutlass/cutlass.h": "/* All rights reserved */"}
    sources.unpack(make_sdist(tmp_path, files), tmp_path / "b")
    with pytest.raises(build.BuildError, match="does not begin with a BSD-3-Clause licence"):
        sources.licences(tmp_path / "b")


# ---- the whole program ----


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


NVCC = """
[ "$1" != --version ] || { echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit; }
echo "$@" >>"$LOG"
while [ "$1" != -o ]; do shift; done
echo object >"$2"
"""
GXX = """
echo "$@" >>"$LOG"
while [ "$1" != -o ]; do shift; done
echo library >"$2"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Arguments of a build that works; the compilers write what they were asked to a log."""
    script(tmp_path / "cuda/bin/nvcc", NVCC)
    script(tmp_path / "bin/g++", GXX)
    script(tmp_path / "bin/python", """echo '["/torch", "9.9.1+cu130", "13.0", true]'""")
    sdist = make_sdist(tmp_path, upstream())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return {
        "--sdist": sdist,
        "--sha256": sha256(sdist),
        "--version": "1.2.3",
        "--archs": "80 86 90",
        "--cuda-home": tmp_path / "cuda",
        "--torch-python": tmp_path / "bin/python",
        "--jobs": 2,
        "--out": tmp_path / "out",
    }


def run(arguments: dict) -> int:
    return build.main([str(word) for pair in arguments.items() for word in pair])


def test_a_build_makes_a_wheel_with_library_package_facts_and_licences(machine, tmp_path, capsys):
    assert run(machine) == 0
    (made,) = (tmp_path / "out").iterdir()
    assert made.name.startswith("flash_attn-1.2.3+hd32.sm80.sm90-py3-none-linux_")
    with zipfile.ZipFile(made) as archive:
        assert archive.read("flash_attn/_hd32.so") == b"library\n"
        package = {file.name for file in (HERE / "package/flash_attn").glob("*.py")}
        assert {f"flash_attn/{name}" for name in package} <= set(archive.namelist())
        facts: dict[str, object] = {}
        exec(archive.read("flash_attn/_build.py").decode(), facts)
        licences = {name.rsplit("/", 1)[1] for name in archive.namelist() if "/licenses/" in name}
    assert {name: facts[name] for name in ("VERSION", "ARCHS", "TORCH", "CUDA")} == {
        "VERSION": "1.2.3+hd32.sm80.sm90",
        "ARCHS": ["80", "90"],
        "TORCH": "9.9.1",
        "CUDA": "13.0",
    }
    assert facts["SDIST_SHA256"] == machine["--sha256"]
    assert licences == {"LICENSE.flash-attention", "AUTHORS.flash-attention", "LICENSE.cutlass"}
    assert "sm_86: runs the code for sm_80" in capsys.readouterr().out


def test_a_build_can_be_repeated_to_the_byte(machine, tmp_path):
    assert run(machine) == run(machine | {"--out": tmp_path / "again"}) == 0
    first, again = (next((tmp_path / name).iterdir()) for name in ("out", "again"))
    assert first.name == again.name
    assert first.read_bytes() == again.read_bytes()


def test_every_build_has_the_same_folder_and_leaves_none(machine, tmp_path, capsys):
    """nvcc names symbols after the folder, so another one would be another library."""
    assert run(machine) == 0
    assert list((tmp_path / "tmp").iterdir()) == []
    (tmp_path / "tmp/flash-attn-hd32").mkdir()
    assert run(machine) == 2
    assert "another build runs, or one was killed and it can be removed" in capsys.readouterr().err
    assert (tmp_path / "tmp/flash-attn-hd32").exists()


def test_the_kernels_are_compiled_for_each_code_arch_without_ptx(machine, tmp_path):
    run(machine)
    kernels = [line for line in (tmp_path / "log").read_text().splitlines() if ".cu " in line]
    assert len(kernels) == len(sources.KERNELS)
    for line in kernels:
        targets = [word for word in line.split() if word.startswith("-gencode")]
        assert targets == ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90"]
        assert [word for word in line.split() if word.startswith("-frandom-seed=flash_")]
        assert all(f"-DFLASHATTENTION_DISABLE_{name}" in line.split() for name in sources.DISABLED)


def test_no_path_of_the_build_folder_gets_into_an_object(machine, tmp_path):
    """nvcc and g++ write the names of sources into what they make, so they are given relative ones."""
    run(machine)
    known = ("/torch", str(tmp_path / "cuda"))
    for line in (tmp_path / "log").read_text().splitlines():
        paths = [word.lstrip("-IL") for word in line.split() if word.lstrip("-IL").startswith("/")]
        assert all(path.startswith(known) for path in paths), line


def test_the_dispatcher_knows_the_archs_and_sees_no_python(machine, tmp_path):
    run(machine)
    (line,) = [line for line in (tmp_path / "log").read_text().splitlines() if "dispatcher.cpp" in line]
    assert "-DFLASH_ATTN_HD32_ARCHS=80,90" in line.split()
    assert "python" not in line.replace(str(tmp_path), "")
    assert "Python.h" not in (HERE / "dispatcher.cpp").read_text()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"--archs": "91"}, "ARCHS='91': 91 not known"),
        ({"--sha256": "0" * 64}, "flash_attn-1.2.3.tar.gz has sha256"),
        ({"--cuda-home": "/nowhere"}, "--cuda-home /nowhere: bin/nvcc does not run"),
        ({"--torch-python": "/nowhere"}, "--torch-python /nowhere does not run"),
        ({"--torch-python": "/bin/false"}, "--torch-python /bin/false can not import torch: no message"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(machine, tmp_path, capsys, changed, sentence):
    assert run(machine | changed) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"flash-attn: {sentence}")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_torch_of_another_cuda_is_named(machine, tmp_path, capsys):
    script(tmp_path / "bin/python", """echo '["/torch", "9.9.1+cu128", "12.8", true]'""")
    assert run(machine) == 2
    assert "nvcc is of CUDA 13.0, and torch 9.9.1+cu128 of CUDA 12.8" in capsys.readouterr().err


def test_a_torch_without_cuda_is_named(machine, tmp_path, capsys):
    script(tmp_path / "bin/python", """echo '["/torch", "9.9.1+cpu", null, true]'""")
    assert run(machine) == 2
    assert "has torch 9.9.1+cpu, which is built without CUDA" in capsys.readouterr().err


def test_a_compiler_error_ends_in_a_sentence_with_its_first_line(machine, tmp_path, capsys):
    script(tmp_path / "bin/g++", "echo 'dispatcher.cpp:7: error: no such type' >&2; exit 1")
    assert run(machine) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "flash-attn: g++ failed on dispatcher.o: dispatcher.cpp:7: error: no such type"
    )
    assert not (tmp_path / "out").exists()
