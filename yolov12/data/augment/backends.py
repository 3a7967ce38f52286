# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who does the two steps that touch every pixel: the Triton kernels where they can run, torch's operations elsewhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov12 import settings
from yolov12.data.augment import colour, warp
from yolov12.log import say

LEAST_CAPABILITY = (7, 5)


class Backend(NamedTuple):
    """Two functions that do the same whoever does it, but for a grey level in few places."""

    warp: Callable[[warp.Layers, torch.device], Tensor]
    recolour: Callable[[Tensor, np.ndarray], Tensor]


PLAIN = Backend(warp.warp, colour.recolour)


def choose(device: torch.device) -> Backend:
    """The kernels on a GPU that they serve, else the plain path; why, is said once."""
    return _choose(device) if device.type == "cuda" else PLAIN


@cache
def _choose(device: torch.device) -> Backend:
    reason = why_plain(torch.cuda.get_device_capability(device))
    if reason:
        say(f"augmentation: torch's operations, without the Triton kernels: {reason}")
        return PLAIN
    # Compiling takes seconds, while the first batch is waited for; where Triton puts it by itself a container forgets it.
    os.environ.setdefault("TRITON_CACHE_DIR", str(settings.cache_dir() / "triton"))
    from yolov12.data.augment import kernels  # imports Triton

    say("augmentation: Triton kernels")
    return Backend(kernels.warp, kernels.recolour)


def why_plain(capability: tuple[int, int]) -> str | None:
    """Why a GPU of this compute capability is not served by the kernels; None if it is."""
    if not settings.current().kernels:
        return "YOLOV12_KERNELS=0"
    if capability < LEAST_CAPABILITY:
        return f"the GPU's compute capability {capability[0]}.{capability[1]} is below 7.5"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler at run time: install gcc, or set CC"
    return None
