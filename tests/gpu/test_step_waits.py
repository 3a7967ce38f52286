# SPDX-License-Identifier: AGPL-3.0-or-later
"""Steady steps of a training keep the host from waiting for the GPU. Needs one NVIDIA GPU.

python -m pytest tests/gpu/test_step_waits.py
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov12 import YOLO
from yolov12.data import synth

BATCH, FIRST, LAST, BATCHES = 8, 20, 40, 45
WAITS = "called a synchronizing CUDA operation"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("pipeline", ["gpu", "cpu"])
def test_twenty_steps_wait_for_nothing(tmp_path: Path, pipeline: str) -> None:
    """As torch counts waits; those for the end of a step two before (progress_line.InFlight) are none, since the GPU does not wait then."""
    synth.write(tmp_path / "data", n_train=BATCH * BATCHES, n_val=4, imgsz=64)
    batches, waits = [0], []

    def note(message: Any, *_: Any, **__: Any) -> None:
        if WAITS in str(message):
            waits.append((batches[0], str(message).splitlines()[0]))

    def on_train_batch_start(trainer: Any) -> None:
        batches[0] += 1
        if batches[0] in (FIRST, LAST):
            torch.cuda.set_sync_debug_mode("warn" if batches[0] == FIRST else "default")

    model = YOLO("yolov12n.yaml")
    model.add_callback("on_train_batch_start", on_train_batch_start)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            model.train(
                data=str(tmp_path / "data/data.yaml"),
                project=str(tmp_path),
                epochs=1,
                batch=BATCH,
                imgsz=64,
                device=0,
                amp="bf16",
                val=False,
                plots=False,
                data_pipeline=pipeline,
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert batches[0] == BATCHES
    assert not waits
