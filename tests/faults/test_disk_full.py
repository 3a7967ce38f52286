# SPDX-License-Identifier: AGPL-3.0-or-later
"""A disk that fills up while a training runs: it ends at the next step, what was saved before is whole, and the run goes on once there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.faults.test_out_of_memory import TINY
from yolov12.data import synth
from yolov12.model.seal import flaw

REPOSITORY = Path(__file__).parents[2]

SCRIPT = """
import errno, sys
import yolov12.compat; yolov12.compat.install()
import torch
torch.set_num_threads(1)
from ultralytics import YOLO
from yolov12.engine import checkpoint
from yolov12.mistakes import as_exit

folder, is_full, steps = sys.argv[1], sys.argv[2] == "full", []
seal = checkpoint.seal

def sealed(part):
    if is_full and len(steps) >= 8:
        raise OSError(errno.ENOSPC, "No space left on device")
    seal(part)

def wait_for_the_thread(trainer):
    steps.append(trainer.epoch)
    if trainer.saver._thread is not None:
        trainer.saver._thread.join()

checkpoint.seal = sealed
model = YOLO(folder + ("/tiny.yaml" if is_full else "/run/weights/last.pt"))
model.add_callback("on_train_batch_start", wait_for_the_thread)
try:
    if is_full:
        model.train(data=folder + "/synth/data.yaml", project=folder, name="run", epochs=2, imgsz=64, batch=4, workers=0, plots=False, save_steps=2)
    else:
        model.train(resume=True)
except Exception as error:
    print(error, file=sys.stderr)
    sys.exit(as_exit(error).exit_code)
finally:
    print(len(steps), "steps")
"""


def test_the_run_ends_at_the_step_after_the_save_that_failed_and_goes_on(tmp_path: Path) -> None:
    """Six steps an epoch, saved after every second: the eighth is the first that finds no room."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "script.py").write_text(SCRIPT)
    synth.write(tmp_path / "synth", n_train=24, n_val=4, imgsz=64)
    full = run(tmp_path, "full")
    last = tmp_path / "run/weights/last.pt"
    assert full.returncode == 75, full.stderr
    assert f"no room to save {last} (No space left on device)" in full.stderr
    assert f"make room and run the same command again with resume={last}" in full.stderr
    assert full.stdout.splitlines()[-1] == "9 steps", "the ninth only looks"
    assert flaw(last) is None
    assert torch.load(last, weights_only=False)["epoch"] == 0
    mended = run(tmp_path, "mended")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.splitlines()[-1] == "6 steps", "the second epoch, whole"


def run(folder: Path, disk: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder), disk],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
