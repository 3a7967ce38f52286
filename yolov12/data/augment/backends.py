# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who does the two steps that touch every pixel: the compiled kernels where they are, else Triton's where they can run, else torch's operations."""

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

from yolov12 import compiled, settings
from yolov12.data.augment import colour, warp
from yolov12.log import say

LEAST_CAPABILITY = (7, 5)


class Backend(NamedTuple):
    """Two functions that do the same whoever does it, but for a grey level in few places."""

    warp: Callable[[warp.Layers, torch.device], Tensor]
    recolour: Callable[[Tensor, np.ndarray], Tensor]


PLAIN = Backend(warp.warp, colour.recolour)


def choose(device: torch.device) -> Backend:
    """The first of `KERNELS` that serves this GPU, else the plain path; which and why is said once."""
    return _choose(device) if device.type == "cuda" else PLAIN


@cache
def _choose(device: torch.device) -> Backend:
    name, reason = decide(torch.cuda.get_device_capability(device))
    say(f"augmentation: {name}" + (f": {reason}" if reason else ""))
    return KERNELS[name].make() if name in KERNELS else PLAIN


def decide(capability: tuple[int, int]) -> tuple[str, str]:
    """Who serves a GPU of this compute capability, and why none before it does; "" where none is."""
    plain = "torch's operations"
    if not settings.current().kernels:
        return plain, "YOLOV12_KERNELS=0"
    reasons: list[str] = []
    for name, kernels in KERNELS.items():
        if (reason := kernels.why_not(capability)) is None:
            return name, "; ".join(reasons)
        reasons.append(f"no {name}, since {reason}")
    return plain, "; ".join(reasons)


def why_no_triton(capability: tuple[int, int]) -> str | None:
    """Why a GPU of this compute capability is not served by Triton's kernels; None if it is."""
    if capability < LEAST_CAPABILITY:
        return f"the GPU's compute capability {capability[0]}.{capability[1]} is below 7.5"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler at run time: install gcc, or set CC"
    return None


def _cuda() -> Backend:
    from yolov12.data.augment import cuda

    return Backend(cuda.warp, cuda.recolour)


def _triton() -> Backend:
    # Compiling takes seconds, while the first batch is waited for; where Triton puts it by itself a container forgets it.
    os.environ.setdefault("TRITON_CACHE_DIR", str(settings.cache_dir() / "triton"))
    from yolov12.data.augment import kernels  # imports Triton

    return Backend(kernels.warp, kernels.recolour)


class Kernels(NamedTuple):
    """One way to do it on a GPU."""

    why_not: Callable[[tuple[int, int]], str | None]
    """Why GPUs of a compute capability are not served, or None."""
    make: Callable[[], Backend]


KERNELS = {"CUDA kernels": Kernels(compiled.why_not, _cuda), "Triton kernels": Kernels(why_no_triton, _triton)}
"""In order of preference. CUDA's need no compiler, which Triton's wait for at a machine's first batch; later ones take about as long."""
