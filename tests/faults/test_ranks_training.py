# SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole training on two CPU ranks under torchrun, in which one rank is busy for longer than the timeout, or comes to harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.faults.test_out_of_memory import TINY
from yolov12.data import synth

REPOSITORY = Path(__file__).parents[2]

SCRIPT = """
import yolov12.compat; yolov12.compat.install()
import errno, os, signal, sys, time
import torch
torch.set_num_threads(1)
from ultralytics import YOLO

harm, rank, batches = sys.argv[3], int(os.environ["RANK"]), 0

def on_val_end(validator):
    if harm == "busy with metrics":
        time.sleep(9)

def on_model_save(trainer):
    if harm == "busy":
        time.sleep(9)
    if harm == "disk full" and trainer.epoch == 1:
        raise OSError(errno.ENOSPC, "No space left on device", "last.pt")

def on_train_batch_end(trainer):
    global batches
    batches += 1
    if harm == "killed" and rank == 1 and trainer.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if harm == "last update" and batches == 12:  # of two epochs of six
        assert trainer.loss.isfinite()
        next(trainer.model.parameters()).data.fill_(torch.nan)

def on_train_start(trainer):
    if harm == "not finite" and rank == 1:
        trainer.last = trainer.last.with_name("on another machine.pt")
        preprocess = trainer.preprocess_batch
        def spoiled(batch):
            batch = preprocess(batch)
            if trainer.epoch == 1 and trainer.nan_recovery_attempts == 0:
                batch["img"] = torch.full_like(batch["img"], torch.nan, dtype=torch.float32)
            return batch
        trainer.preprocess_batch = spoiled

model = YOLO(sys.argv[1] + "/tiny.yaml")
for event in (on_model_save, on_train_batch_end, on_train_start, on_val_end):
    model.add_callback(event.__name__, event)
model.train(
    data=sys.argv[1] + "/synth/data.yaml", project=sys.argv[2], name="run", epochs=2, imgsz=64, workers=0, plots=False, exist_ok=True,
    batch=4, nbs=4,  # an update after each batch: without one a gradient that is not finite spoils nothing yet
)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny.yaml").write_text(TINY)
    synth.write(folder / "synth", n_train=24, n_val=4, imgsz=64)
    return folder


def train(data: Path, out: Path, harm: str, **settings: str) -> tuple[int, str]:
    (out / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    here = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "YOLOV12_DIST_TIMEOUT_S": "5"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, str(out / "script.py"), str(data), str(out), harm],
        env={**os.environ, **here, **settings},
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_first_rank_that_is_busy_for_longer_than_the_timeout_ends_nothing(data: Path, tmp_path: Path) -> None:
    code, said = train(data, tmp_path, "busy", YOLOV12_SYNC_BN="1", YOLOV12_GRAD_COMPRESS="bf16")
    assert code == 0, said
    assert "batch norms take their statistics over 2 ranks" in said
    norms = {type(m) for m in torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["model"].modules()}
    assert torch.nn.BatchNorm2d in norms
    assert not any("yolov12" in kind.__module__ for kind in norms)


def test_nor_does_one_that_takes_longer_at_the_end_of_a_validation(data: Path, tmp_path: Path) -> None:
    """The others have gathered by then, and would wait for it in a sum of losses."""
    code, said = train(data, tmp_path, "busy with metrics")
    assert code == 0, said


TOLD = [
    ("disk full", "rank 0 failed at step 12: OSError: [Errno 28] No space left on device"),
    ("killed", "rank 1 (step 8) is gone without a word"),
]
"""What harms a rank, and what the other says of it."""


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "names"), TOLD)
def test_what_harms_a_rank_is_told_by_the_other(data: Path, tmp_path: Path, harm: str, names: str) -> None:
    code, said = train(data, tmp_path, harm)
    assert code != 0
    assert names in said, said
    assert torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["epoch"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["not finite", "last update"])
def test_lost_weights_are_loaded_anew_also_by_a_rank_that_does_not_see_the_folder(
    data: Path, tmp_path: Path, harm: str
) -> None:
    """Of a batch's loss they are seen by the next one's; those of the run's last update by nothing but themselves."""
    code, said = train(data, tmp_path, harm)
    assert code == 0, said
    assert "recovering from last.pt" in said
    rows = (tmp_path / "run/results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    weights = torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["model"].state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())
