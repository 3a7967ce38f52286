# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a device reaches with nothing but a large copy, and with nothing but a large matrix product: what a step can be measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import timing

COPIED_BYTES = {"cuda": 2**30, "cpu": 64 * 2**20}
"""Far beyond a cache."""
PRODUCT_SIZE = {"cuda": 8192, "cpu": 512}
REPEATS = 10


@dataclass(frozen=True)
class Ceilings:
    """The best of a few."""

    moved_per_s: float
    """Bytes, read and written."""
    operations_per_s: float
    words: str


def measured(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Copy and multiply.

    Args:
        device: a GPU, or the CPU, where both are small.
        dtype: of the matrices.
    """
    copied, size = COPIED_BYTES[device.type], PRODUCT_SIZE[device.type]
    found = Ceilings(
        2 * copied / _copy_ms(copied, device) * 1000,
        2 * size**3 / _product_ms(size, device, dtype) * 1000,
        f"a copy of {copied / 2**30:g} GiB, a product of two {str(dtype).removeprefix('torch.')} matrices of {size} x {size}",
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the step's plan looks at what is free
    return found


def _copy_ms(size_bytes: int, device: torch.device) -> float:
    source = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _least_ms(lambda: target.copy_(source), device)


def _product_ms(size: int, device: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return _least_ms(lambda: left @ right, device)


def _least_ms(call: Callable[[], object], device: torch.device) -> float:
    timing.warm(call, device.type)
    return min(timing.times_ms(call, device.type, REPEATS))
