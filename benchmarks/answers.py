# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the programs that time predictions share: networks that find something, a camera's picture, and the quantiles of calls.

Imports torch and ultralytics when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import lively


@dataclass(frozen=True)
class Quantiles:
    """Of the milliseconds of calls that were made one after the other."""

    p50: float
    p90: float
    p99: float
    calls: int

    def words(self) -> str:
        """All but the median, which is a row's value."""
        return f"p90 {self.p90:.3f}, p99 {self.p99:.3f} ms of {self.calls} calls"


def quantiles(spent_ms: Sequence[float]) -> Quantiles:
    """The value below which so much of the calls lies; of few calls p99 is the slowest."""
    in_order = sorted(spent_ms)
    p50, p90, p99 = (in_order[min(len(in_order) - 1, int(len(in_order) * share))] for share in (0.5, 0.9, 0.99))
    return Quantiles(p50, p90, p99, len(in_order))


def weights(size: str, parameters: Mapping[str, Any], scratch: Path) -> str:
    """The file of yolo12`size`, made where it is not there yet."""
    path = scratch / f"{size}.pt"
    if not path.exists():
        lively.write(f"yolo12{size}.yaml", min(parameters["imgsz"], 320), path)
    return str(path)


def frame() -> Any:
    """A picture of 1280x720 as a camera's decoder gives it."""
    import cv2
    import numpy as np

    return cv2.resize(np.random.default_rng(0).integers(0, 255, (18, 32, 3), np.uint8), (1280, 720))


def device_of(parameters: Mapping[str, Any]) -> str:
    """cuda, or cpu: where there is no GPU, or it was asked for."""
    import torch

    return "cuda" if torch.cuda.is_available() and parameters["device"] != "cpu" else "cpu"
