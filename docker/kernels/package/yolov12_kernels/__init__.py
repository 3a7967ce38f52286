# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compiled GPU kernels of the YOLOv12 image: torch ops in the namespace `yolov12_kernels`. Built by docker/kernels/build.py."""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).with_name("_kernels.so")


def load() -> str | None:
    """Register the ops; the reason if this torch or this machine can not load them, else None."""
    import torch

    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} does not load: {error}"
    return None
