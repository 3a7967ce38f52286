# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks.lively CONFIG IMGSZ OUT`: an untrained network that finds tens of boxes, saved as a `.pt` by stock ultralytics.

For programs that measure time and not accuracy: a fresh network answers with its biases alone, so its NMS would have nothing to do, and training one
would take minutes for each side. Seeded: the same arguments give the same file on one machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchmarkError
from benchmarks.system import ROOT

CONFIDENCE = 0.25
"""What pictures are predicted with where nothing else is asked."""
SHARE = 0.01
"""Of the anchors: 84 of a picture of 640 px, before NMS."""


def write(config: str, imgsz: int, out: Path) -> None:
    """The file, made in a process of its own, so that nothing of it stays in the one that is measured.

    Raises:
        BenchmarkError: it could not be made.
    """
    command = [sys.executable, "-m", "benchmarks.lively", config, str(imgsz), str(out)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "YOLOV12_DISABLE": "1", "PYTHONPATH": path, "YOLO_OFFLINE": "true"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"no network of {config}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def make(config: str, imgsz: int, share: float = SHARE) -> Any:
    """ultralytics' `YOLO`: batch norms know what goes through them, and `share` of all anchors is above `CONFIDENCE`."""
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(config)
    network = model.model
    pictures = torch.nn.functional.interpolate(torch.rand(4, 3, 16, 16), size=(imgsz, imgsz))
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        network.train()(pictures)
        for norm in norms:
            norm.momentum = 0.03
        network.eval()
        # A head that suppresses by itself has two sets of branches, and answers with the second.
        head, branches = network.model[-1], "one2one" if network.model[-1].end2end else "one2many"
        last = [branch[-1] for branch in getattr(head, branches)["cls_head"]]

        def scores() -> torch.Tensor:
            raw = network(pictures)[1]
            return raw.get(branches, raw)["scores"]

        spread = scores().std()
        for layer in last:
            layer.weight /= spread
            layer.bias.zero_()
        best = scores().amax(1).flatten()
        for layer in last:
            layer.bias += torch.tensor(CONFIDENCE).logit() - best.quantile(1 - share)
    return model


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2])).save(sys.argv[3])
