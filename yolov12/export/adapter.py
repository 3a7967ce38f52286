# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two things of ultralytics' exporter that this room relies on beyond its arguments. Nothing is replaced.

Where it writes follows from the network's `pt_path`, and what a head returns while it is exported follows from its
`export` flag.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from yolov12.seams import Seam

SEAMS = (
    Seam("engine/exporter.py", 610, "ultralytics.engine.exporter.Exporter.__call__", "8a4e4f44387a"),
    Seam("nn/modules/head.py", 180, "ultralytics.nn.modules.head.Detect.forward", "164f309a5c8f"),
)


@contextmanager
def written_to(network: Any, out: Path) -> Iterator[None]:
    """Within the block an export of `network` is written beside `out` under its name (engine/exporter.py:909)."""
    before = vars(network).get("pt_path")
    network.pt_path = str(out.with_suffix(".pt"))
    try:
        yield
    finally:
        del network.pt_path
        if before is not None:
            network.pt_path = before


def as_exported(source: torch.nn.Module) -> torch.nn.Module:
    """A float32 CPU copy whose heads return what is exported, the decoded outputs alone (engine/exporter.py:937)."""
    network = copy.deepcopy(source).cpu().float().eval()
    for module in network.modules():
        if hasattr(module, "export") and hasattr(module, "format"):
            vars(module).update(export=True, format="onnx")
    return network
