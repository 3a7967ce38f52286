# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compiled GPU kernels of the YOLOv12 image: torch ops in the namespace `yolov12_kernels`. Built by docker/kernels/build.py.

`__version__` says what was built: the version of the ops, and the GPU archs that there is code for.
"""

from __future__ import annotations

from pathlib import Path

from yolov12_kernels import _build
from yolov12_kernels._build import VERSION as __version__

__all__ = ["LIBRARY", "__version__", "load", "why_not"]

LIBRARY = Path(__file__).with_name("_kernels.so")


def why_not(capability: tuple[int, int]) -> str | None:
    """Why there is nothing here for GPUs of this CUDA compute capability, (9, 0) say; None if there is."""
    major, minor = capability
    if any(int(arch) // 10 == major and int(arch) % 10 <= minor for arch in _build.ARCHS):
        return None
    return f"there is code for {', '.join(f'sm_{arch}' for arch in _build.ARCHS)}, and this GPU is sm_{major}{minor}"


def load() -> str | None:
    """Register the ops; the reason if this torch or this machine can not load them, else None. May be called again."""
    import torch

    # Any other torch may have other symbols: say so before the linker does in its own words, or not at all.
    if torch.__version__.split("+")[0] != _build.TORCH:
        return f"built against torch {_build.TORCH}, and this is torch {torch.__version__}: build it again"
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} does not load: {error}"
    from yolov12_kernels import _shapes  # noqa: F401  # tells torch of the ops, which are there from now on

    return None
