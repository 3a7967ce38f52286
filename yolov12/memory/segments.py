# SPDX-License-Identifier: AGPL-3.0-or-later
"""How torch's allocator holds a GPU's memory: in segments that grow.

By default it holds blocks of fixed sizes, and what is free in several of them serves no larger request. Beside plans that change in the middle
of a run a step whose plan fitted ran out of memory for those gaps (neighbour_test.log of 2026-11-29 in benchmarks/records). Segments that grow
(torch's `expandable_segments`) are one range of addresses, in which neighbouring gaps are one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

ASKED_BY_USERS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""torch reads both. Who asked for anything there gets exactly that."""
GROWING = "expandable_segments:True"


def grow(device: torch.device, environ: Mapping[str, str] | None = None) -> bool:
    """Have what the allocator holds from now on be of segments that grow; False where that is not ours to choose.

    Args:
        device: that is trained on.
        environ: of this process.
    """
    environ = os.environ if environ is None else environ
    if device.type != "cuda" or any(environ.get(name) for name in ASKED_BY_USERS):
        return False
    torch._C._accelerator_setAllocatorSettings(GROWING)
    return True
