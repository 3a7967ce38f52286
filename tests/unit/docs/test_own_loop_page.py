# SPDX-License-Identifier: AGPL-3.0-or-later
"""The programs of docs/own-loop.md run as they stand, in a folder with a small data set called my.yaml."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dist.ranks import _free_port as free_port
from yolov12.data import synth

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/own-loop.md").read_text(encoding="utf-8")
Ran = tuple[str, dict[str, Any]]
CALLBACK, TRAINER, PIECES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[str], Ran]:
    """Runs a program in a reader's folder; gives back what it printed, and its names."""
    data = synth.write(tmp_path / "data", n_train=4, n_val=2, imgsz=64)
    (tmp_path / "my.yaml").write_text(data.read_text().replace("images/", "data/images/"))
    monkeypatch.chdir(tmp_path)

    def run(program: str) -> Ran:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(program, "docs/own-loop.md", "exec"), names)
        return "".join(capfd.readouterr()), names

    return run


def test_a_callback_is_called(run: Callable[[str], Ran]):
    said, _ = run(CALLBACK)
    assert re.search(r"^epoch 1 \{.*metrics/mAP50", said, re.MULTILINE)


def test_a_trainer_of_ones_own_trains(run: Callable[[str], Ran]):
    _, names = run(TRAINER)
    trainer = names["model"].trainer
    assert type(trainer) is names["Darker"]
    assert trainer.best.is_file()


@pytest.mark.slow  # three processes that import ultralytics
def test_a_trainer_of_a_script_goes_along_to_other_processes(run: Callable[[str], Ran], tmp_path: Path):
    del run  # makes the data
    program = TRAINER.replace("        return {", '        print("darker")\n        return {')
    environment = {
        "PYTHONPATH": str(ROOT),
        "NODE_RANK": "0",
        "NNODES": "1",
        "GPUS_PER_NODE": "2",
        "MASTER_ADDR": "127.0.0.1",
    }
    (tmp_path / "script.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env={**os.environ, **environment, "MASTER_PORT": str(free_port())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "launch: 2 processes on this machine" in done.stderr
    assert done.stdout.count("darker") == 2 * 2  # two ranks; an epoch of four images in batches of two over both


def test_the_pieces_can_be_taken_alone(run: Callable[[str], Ran]):
    said, _ = run(PIECES)
    assert "fp32 (16-bit formats are used on GPUs only)" in said
