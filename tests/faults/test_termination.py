# SPDX-License-Identifier: AGPL-3.0-or-later
"""A scheduler takes the machine away: the step ends, the exit code says so, and the run can go on elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov12.data import synth
from yolov12.model.seal import flaw

REPOSITORY = Path(__file__).parents[2]

SCRIPT = """
import yolov12.compat; yolov12.compat.install()
import os, signal, sys
import torch
torch.set_num_threads(1)
from ultralytics import YOLO

def take_the_machine(trainer):
    if getattr(trainer, "epoch", 0) == int(sys.argv[3]) and os.environ.get("RANK", "0") == "0":
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
    data: Path, out: Path, epoch: int, *launcher: str, event: str = "on_train_batch_start", log: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """A run to which SIGTERM comes at `event` of `epoch` (counted from 0). `log` is where stderr goes."""
    out.mkdir(exist_ok=True)
    (out / "script.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, *launcher, str(out / "script.py"), str(data), str(out), str(epoch), event],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        timeout=280,
    )


def weights_of(out: Path) -> dict[str, Any]:
    """What last.pt says of the run."""
    return torch.load(out / "run" / "weights" / "last.pt", weights_only=False)


def test_a_terminated_run_saves_the_step_ends_with_143_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 0)
    last = tmp_path / "run" / "weights" / "last.pt"
    assert done.returncode == 143, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "SIGTERM: training ends after the step that runs" in done.stderr
    assert f"terminated after step 1 of 3 of epoch 1; go on with resume={last}" in done.stderr
    assert "the script's own clean-up ran" in done.stdout
    assert weights_of(tmp_path)["yolov12"]["seen"] == 4
    assert flaw(last) is None


def test_in_a_log_nothing_stands_below_the_line_that_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 0, log=subprocess.STDOUT)
    *_, last, clean_up = done.stdout.splitlines()
    assert clean_up == "the script's own clean-up ran"
    assert last.startswith("terminated after step 1 of 3 of epoch 1; go on with resume=")


def test_a_signal_at_the_end_of_an_epoch_does_not_wait_for_its_validation(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 0, event="on_train_epoch_end")
    assert done.returncode == 143, done.stdout + done.stderr
    assert "terminated after step 3 of 3 of epoch 1; go on with" in done.stderr
    assert not (tmp_path / "run" / "results.csv").exists()
    found = weights_of(tmp_path)["yolov12"]
    assert (found["epoch"], found["seen"]) == (0, 10)


def test_a_signal_in_a_validation_does_not_wait_for_its_end(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 0, event="on_val_batch_start", log=subprocess.STDOUT)
    assert done.returncode == 143, done.stdout
    assert "Traceback" not in done.stdout
    assert "terminated after step 3 of 3 of epoch 1; go on with" in done.stdout.splitlines()[-2], done.stdout
    assert not (tmp_path / "run" / "results.csv").exists()
    found = weights_of(tmp_path)["yolov12"]
    assert (found["epoch"], found["seen"]) == (0, 10)


def test_a_signal_after_validation_ends_the_run_with_the_checkpoint_of_the_epoch(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 0, event="on_fit_epoch_end")
    assert done.returncode == 143, done.stdout + done.stderr
    assert "terminated after epoch 1; go on with" in done.stderr
    found = weights_of(tmp_path)
    assert (found["epoch"], found["yolov12"]["epoch"], found["yolov12"]["seen"]) == (0, 1, 0)


def test_all_ranks_end_after_the_same_step_when_one_of_them_is_asked_to(data: Path, tmp_path: Path) -> None:
    done = terminated(data, tmp_path, 1, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "terminated after step 1 of 3 of epoch 2" in said
    assert said.count("the script's own clean-up ran") == 2, said
    found = weights_of(tmp_path)
    assert (found["epoch"], found["yolov12"]["epoch"], found["yolov12"]["seen"]) == (0, 1, 4)
    assert len(found["yolov12"]["random"]) == 2
