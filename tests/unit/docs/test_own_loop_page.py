# SPDX-License-Identifier: AGPL-3.0-or-later
"""The programs of docs/own-loop.md run as they stand, in a folder with a small data set called my.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


def test_the_pieces_can_be_taken_alone(run: Callable[[str], Ran]):
    said, _ = run(PIECES)
    assert "fp32 (16-bit formats are used on GPUs only)" in said
