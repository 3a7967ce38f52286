# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/first-training.md is typed as a reader would: each `yolov12 ...` line in order, in one empty folder, and the Python."""

import os
import re
import subprocess
import sys

import pytest

from yolov12 import cli

NEEDS_MINUTES = ("yolov12 demo",)
"""Marked so on the page; tests/unit/tools/test_demo.py runs it."""


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "first-training.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder to work in."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def exit_codes(page, folder):
    """Exit code by command line, of every command of the page, run where the command `yolov12` starts."""
    commands = [line for line in re.findall(r"^    (yolov12 .*)$", page, re.MULTILINE) if line not in NEEDS_MINUTES]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {command: cli.main(command.split()[1:]) for command in commands}


@pytest.mark.timeout(900)
def test_every_command_of_the_page_succeeds(exit_codes):
    assert [command.split()[1] for command in exit_codes] == ["data", "data", "train", "val", "predict", "export"]
    assert set(exit_codes.values()) == {0}, exit_codes


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.access("/workspace", os.W_OK), reason="with a writable /workspace, runs go there")
def test_the_files_that_the_page_names_are_there(exit_codes, folder):
    run = folder / "runs" / "detect" / "first"
    named = (run / "weights" / "best.pt", run / "weights" / "best.onnx", run / "results.csv", run / "results.png")
    assert [file for file in named if not file.is_file()] == []
    assert len(list((folder / "runs" / "detect" / "predict").glob("*.jpg"))) == 8


@pytest.mark.timeout(900)
def test_the_python_of_the_page_runs(exit_codes, page, folder, repository):
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count(".jpg ") == 8


def test_the_example_that_the_page_names_exists(page, repository):
    for name in re.findall(r"python (examples/\S+)", page):
        assert (repository / name).is_file()
