# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes tests/data/gradients/bccd.npz: how large each layer's gradients are while stock ultralytics trains yolo12n on BCCD.

    python -m tests.unit.precision.record_gradients BCCD/bccd.yaml

Eight epochs at 160 px in fp32 on the CPU, from random weights, with ultralytics' own warm-up of the learning rate; some minutes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[2] / "data/gradients/bccd.npz"
EVERY = 4
"""Of the parameter tensors, which lie in the order of the layers."""
QUARTERS = 4
"""Of a bit: what is kept is rounded to them."""


def main(data: str) -> None:
    """Train and write."""
    os.environ["YOLOV12_DISABLE"] = "1"
    import torch
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    bits: list[list[float]] = []

    class Recorder(DetectionTrainer):
        def optimizer_step(self) -> None:
            largest = [p.grad.abs().max() for p in self.model.parameters() if p.grad is not None][::EVERY]
            bits.append(torch.stack(largest).clamp(min=2.0**-31).log2().tolist())
            super().optimizer_step()

    arguments = {
        "imgsz": 160,
        "batch": 8,
        "nbs": 8,
        "epochs": 8,
        "optimizer": "SGD",
        "lr0": 0.01,
        "workers": 0,
        "seed": 0,
    }
    YOLO("yolo12n.yaml").train(
        trainer=Recorder, data=data, device="cpu", amp=False, val=False, plots=False, **arguments
    )
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, quarter_bits=np.rint(np.array(bits) * QUARTERS).astype(np.int8))


if __name__ == "__main__":
    main(sys.argv[1])
