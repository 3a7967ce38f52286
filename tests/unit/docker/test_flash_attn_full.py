# SPDX-License-Identifier: AGPL-3.0-or-later
"""FLASH_ATTN=full: upstream's own setup.py is asked for the right thing. What it does for hours is a stand-in here, and the stage was not run."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[3] / "docker/flash_attn"
sys.path.insert(0, str(HERE))  # as Python does for a program
full = importlib.import_module("full")
sys.path.remove(str(HERE))

SDIST = b"an archive"
SHA256 = hashlib.sha256(SDIST).hexdigest()


class Upstream:
    """`pip wheel` and the reader of GPU code, as far as full.py sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.libraries = ["flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so"]
        self.pip_code = self.reader_code = 0
        self.pip: list[str] = []
        self.reader: list[str] = []
        self.environment: dict[str, str] = {}
        monkeypatch.setattr(full.subprocess, "run", self.run)

    def run(self, command: list[str], env: dict[str, str] | None = None, **_kwargs) -> subprocess.CompletedProcess:
        if "pip" not in command:
            self.reader = command
            return subprocess.CompletedProcess(command, self.reader_code)
        self.pip, self.environment = command, env or {}
        if self.pip_code == 0:
            name = f"flash_attn-2.8.3+{self.environment['FLASH_ATTN_LOCAL_VERSION']}-cp311-cp311-linux_x86_64.whl"
            with zipfile.ZipFile(Path(command[command.index("--wheel-dir") + 1]) / name, "w") as archive:
                for library in self.libraries:
                    archive.writestr(library, b"code")
        return subprocess.CompletedProcess(command, self.pip_code)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Upstream:
    return Upstream(monkeypatch)


def run(tmp_path: Path, archs: str = "75 80 86 90", max_jobs: str = "3", sha256: str = SHA256) -> int:
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "sdist.tar.gz").write_bytes(SDIST)
    words = ["--sdist", str(tmp_path / "sdist.tar.gz"), "--sha256", sha256, "--version", "2.8.3", "--archs", archs]
    folders = ["--cuda-home", "/cuda", "--include", "/headers", "--work", str(tmp_path / "work")]
    return full.main([*words, "--max-jobs", max_jobs, *folders, "--out", str(tmp_path / "out")])


def test_setup_py_is_told_the_archs_the_jobs_and_to_build(upstream, tmp_path):
    assert run(tmp_path) == 0
    expected = {
        "FLASH_ATTN_CUDA_ARCHS": "80;90",
        "FLASH_ATTN_LOCAL_VERSION": "full.sm80.sm90",
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",
        "MAX_JOBS": "3",
        "CUDA_HOME": "/cuda",
        "CPATH": "/headers",
    }
    assert expected.items() <= upstream.environment.items()
    assert "FLASH_ATTENTION_SKIP_CUDA_BUILD" not in upstream.environment


def test_nothing_but_the_sdist_is_given_to_pip_and_nothing_is_fetched(upstream, tmp_path):
    run(tmp_path)
    assert {"--no-deps", "--no-build-isolation", "--use-pep517"} <= set(upstream.pip)
    assert upstream.pip[-1] == str(tmp_path / "sdist.tar.gz")


def test_another_sdist_than_the_pinned_one_is_not_built(upstream, tmp_path, capsys):
    assert run(tmp_path, sha256="0" * 64) == 2
    assert f"has sha256 {SHA256}, and the pin is {'0' * 64}" in capsys.readouterr().err
    assert upstream.pip == []


def test_the_code_in_the_wheel_is_compared_with_the_archs(upstream, tmp_path):
    run(tmp_path)
    assert upstream.reader[-2:] == ["--expect", "80 90"]
    assert Path(upstream.reader[2]).read_bytes() == b"code"


def test_it_says_at_the_start_that_it_takes_hours(upstream, tmp_path, capsys):
    run(tmp_path)
    said = capsys.readouterr().out
    assert "upstream's whole for 2 archs with 3 compilers at once (MAX_JOBS): this takes hours" in said
    assert "sm_75: no FlashAttention before sm_80, so torch's SDPA serves it" in said


def test_what_goes_wrong_is_one_sentence_and_exit_code_2(upstream, tmp_path, capsys):
    for change, words in (
        ({"pip_code": 1}, "upstream's build of 2.8.3 failed (see above)"),
        ({"reader_code": 2}, "has not the code that was asked for (see above)"),
        ({"libraries": []}, "holds 0 libraries flash_attn_2_cuda*.so, not one"),
    ):
        folder = tmp_path / words[:8]
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in change.items():
                patch.setattr(upstream, name, value)
            assert run(folder) == 2
        said = capsys.readouterr().err
        assert said.startswith("flash-attn: ")
        assert words in said


def test_an_arch_that_is_not_known_fails_before_anything_is_built(upstream, tmp_path, capsys):
    assert run(tmp_path, archs="90 91") == 2
    assert "ARCHS='90 91': 91 not known" in capsys.readouterr().err
    assert upstream.pip == []


@pytest.mark.parametrize(
    ("asked", "cores", "gib", "count", "why"),
    [
        ("4", 2, 1.0, 4, "MAX_JOBS"),
        ("auto", 4, 64.0, 4, "one for each of 4 cores"),
        ("auto", 16, 20.0, 2, "8 GiB each of 20 GiB; MAX_JOBS=... sets another number"),
        ("auto", 2, 1.0, 1, "8 GiB each of 1 GiB; MAX_JOBS=... sets another number"),
    ],
)
def test_as_many_compilers_run_as_cores_and_memory_allow_or_as_were_asked_for(asked, cores, gib, count, why):
    assert full.jobs(asked, cores, gib) == (count, why)


@pytest.mark.parametrize("asked", ["0", "many", "-1", "1.5"])
def test_a_number_of_compilers_that_is_none_is_refused(asked):
    with pytest.raises(full.BuildError, match="type a whole number above 0"):
        full.jobs(asked, 2, 8.0)


SETUP = """\
import json, os
from setuptools import setup
names = ("FLASH_ATTN_CUDA_ARCHS", "FLASH_ATTENTION_FORCE_BUILD", "MAX_JOBS", "NVCC_THREADS")
os.makedirs("stand_in", exist_ok=True)
open("stand_in/__init__.py", "w").write("")
json.dump({name: os.environ[name] for name in names}, open("stand_in/seen.json", "w"))
setup(name="flash_attn", version="2.8.3+" + os.environ["FLASH_ATTN_LOCAL_VERSION"], packages=["stand_in"],
      package_data={"stand_in": ["seen.json"]}, setup_requires=["ninja"])
"""


def test_pip_runs_a_setup_py_with_these_variables(tmp_path, monkeypatch):
    """pip itself on a stand-in for upstream's sdist: no network, and what setup.py asks for is not fetched."""
    sdist = tmp_path / "flash_attn-2.8.3"
    sdist.mkdir()
    (sdist / "setup.py").write_text(SETUP)
    (sdist / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: flash_attn\nVersion: 2.8.3\n")
    archive = Path(shutil.make_archive(str(sdist), "gztar", tmp_path, "flash_attn-2.8.3"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    checked: list[tuple] = []
    monkeypatch.setattr(full, "check_code", lambda *arguments: checked.append(arguments))
    (tmp_path / "work").mkdir()
    options = argparse.Namespace(
        sdist=archive,
        version="2.8.3",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        archs="80 120",
        max_jobs="2",
        cuda_home=tmp_path,
        include=tmp_path,
        work=tmp_path / "work",
        out=tmp_path / "out",
    )
    made = full.build(options)
    assert made.name.startswith("flash_attn-2.8.3+full.sm80.sm120-")
    seen = json.loads(zipfile.ZipFile(made).read("stand_in/seen.json"))
    assert seen == {
        "FLASH_ATTN_CUDA_ARCHS": "80;120",
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",
        "MAX_JOBS": "2",
        "NVCC_THREADS": "1",
    }
    assert checked == [(made, ["80", "120"], tmp_path / "work")]
