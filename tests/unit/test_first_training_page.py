# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/first-training.md is typed as a reader would: each `yolov12 ...` line in order, in one empty folder, and the Python."""

import os
import re
import subprocess
import sys

import pytest

NEEDS_MINUTES = ("yolov12 demo",)
"""Marked so on the page; tests/unit/tools/test_demo.py runs it."""


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "first-training.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    """An empty folder, with a command `yolov12` on the PATH as an installation would put it there."""
    folder = tmp_path_factory.mktemp("reader")
    command = folder / "bin" / "yolov12"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{repository}" exec "{sys.executable}" -m yolov12.cli "$@"\n')
    command.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def typed(page, folder):
    """(command, finished process) of every command line of the page."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    commands = [line for line in re.findall(r"^    (yolov12 .*)$", page, re.MULTILINE) if line not in NEEDS_MINUTES]
    return [
        (
            command,
            subprocess.run(
                command.split(), cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
            ),
        )
        for command in commands
    ]


@pytest.mark.timeout(900)
def test_every_command_of_the_page_succeeds(typed):
    assert [command.split()[1] for command, _ in typed] == ["data", "data", "train", "val", "predict", "export"]
    for command, finished in typed:
        assert finished.returncode == 0, f"{command}\n{finished.stdout[-1000:]}{finished.stderr[-3000:]}"


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.access("/workspace", os.W_OK), reason="with a writable /workspace, runs go there")
def test_the_files_that_the_page_names_are_there(typed, folder):
    run = folder / "runs" / "detect" / "first"
    named = (run / "weights" / "best.pt", run / "weights" / "best.onnx", run / "results.csv", run / "results.png")
    assert [file for file in named if not file.is_file()] == []
    assert len(list((folder / "runs" / "detect" / "predict").glob("*.jpg"))) == 8


@pytest.mark.timeout(900)
def test_the_python_of_the_page_runs(typed, page, folder, repository):
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
