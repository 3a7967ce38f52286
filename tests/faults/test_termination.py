# SPDX-License-Identifier: AGPL-3.0-or-later
"""A scheduler takes the machine away: the step ends, the exit code says so, and the run can go on elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov12.data import synth

REPOSITORY = Path(__file__).parents[2]

SCRIPT = """
import yolov12.compat; yolov12.compat.install()
import os, signal, sys
import torch
torch.set_num_threads(1)
from ultralytics import YOLO

def take_the_machine(trainer):
    if trainer.epoch == int(sys.argv[3]) and os.environ.get("RANK", "0") == "0":
        os.kill(os.getpid(), signal.SIGTERM)

model = YOLO("yolov12n.yaml")
model.add_callback(sys.argv[4], take_the_machine)
try:
    model.train(data=sys.argv[1], project=sys.argv[2], name="run", epochs=3, imgsz=64, batch=4, device="cpu", plots=False, exist_ok=True)
finally:
    print("the script's own clean-up ran")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=10, n_val=4, imgsz=64)


def terminated(
    data: Path, out: Path, epoch: int, *launcher: str, event: str = "on_train_batch_start"
) -> subprocess.CompletedProcess[str]:
    """A run to which SIGTERM comes at `event` of `epoch` (counted from 0)."""
    out.mkdir(exist_ok=True)
    (out / "script.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, *launcher, str(out / "script.py"), str(data), str(out), str(epoch), event],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_a_terminated_run_ends_with_143_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 1)
    last = tmp_path / "run" / "weights" / "last.pt"
    assert done.returncode == 143, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "SIGTERM: training ends after the step that runs" in done.stderr
    words = f"terminated after step 1 of 3 of epoch 2, which will be repeated; {last} holds the whole epochs: go on with resume={last}"
    assert words in done.stderr
    assert "the script's own clean-up ran" in done.stdout
    assert torch.load(last, weights_only=False)["epoch"] == 0


def test_a_run_terminated_in_its_first_epoch_claims_no_checkpoint(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 0)
    assert done.returncode == 143, done.stdout + done.stderr
    assert "terminated after step 1 of 3 of epoch 1, which will be repeated; nothing was saved before it" in done.stderr


def test_a_signal_during_validation_waits_for_the_checkpoint_and_not_for_another_step(
    data: Path, tmp_path: Path
) -> None:
    done = terminated(data, tmp_path, 0, event="on_train_epoch_end")
    last = tmp_path / "run" / "weights" / "last.pt"
    assert done.returncode == 143, done.stdout + done.stderr
    assert f"terminated after epoch 1; {last} holds the whole epochs" in done.stderr
    assert torch.load(last, weights_only=False)["epoch"] == 0


def test_all_ranks_end_after_the_same_step_when_one_of_them_is_asked_to(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 1, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "terminated after step 1 of 3 of epoch 2" in said
    assert said.count("the script's own clean-up ran") == 2, said
    assert torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=False)["epoch"] == 0
