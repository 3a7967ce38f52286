# SPDX-License-Identifier: AGPL-3.0-or-later
"""ready: refused before the other side's installation where there is no image. With one it needs an engine: tests/image."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.programs import ready


def with_docker(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = folder / "docker"
    docker.write_text(f"#!/bin/sh\n{script}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_the_image_the_engines_last_words_are_told(tmp_path, monkeypatch):
    with_docker(tmp_path, "echo first >&2; echo no such image: $3 >&2; exit 1", monkeypatch)
    with pytest.raises(
        BenchmarkError, match=r"the image yolov12:train: no such image: yolov12:train; type make build$"
    ):
        ready.prepare({"image": "yolov12:train"}, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_without_an_engine_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"needs a container engine and the image a: docker: No such file"):
        ready.prepare({"image": "a"}, tmp_path / "scratch")


def test_with_the_image_the_pictures_and_the_script_are_made(tmp_path, monkeypatch):
    with_docker(tmp_path, "exit 0", monkeypatch)
    ready.prepare({"image": "a"}, tmp_path / "scratch")
    assert (tmp_path / "scratch/script.py").read_text() == ready.SCRIPT
    assert len(list((tmp_path / "scratch/data/images/train").iterdir())) == 8
