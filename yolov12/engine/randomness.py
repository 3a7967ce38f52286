# SPDX-License-Identifier: AGPL-3.0-or-later
"""The random states of a process, as plain data that a checkpoint may hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ultralytics.utils.torch_utils import init_seeds

from yolov12.log import say


def states(device: torch.device) -> dict[str, Any]:
    """Of Python, numpy, torch on the CPU, and torch on `device` where that is a GPU."""
    kind, words, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(words, np.int64)), *(value for value in rest)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(saved: Sequence[dict[str, Any]], device: torch.device, rank: int, ranks: int, seed: int) -> None:
    """Go on from what the ranks had; where there were another number of ranks, or another kind of device, from new states, which is said.

    Args:
        saved: of all ranks, in their order.
        seed: for new states.
    """
    mine = saved[rank] if len(saved) == ranks else None
    if mine is None or (mine["cuda"] is None) != (device.type != "cuda"):
        say(
            f"resume: random numbers outside the loader begin anew: {len(saved)} rank(s) were saved, {ranks} go on on {device.type}"
        )
        init_seeds(seed + 1 + rank)
        return
    version, words, gauss = mine["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = mine["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    # Copies: torch 2.11 misreads a state that does not lie at the beginning of its storage, as those of a checkpoint's further ranks do.
    torch.set_rng_state(mine["torch"].clone())
    if mine["cuda"] is not None:
        torch.cuda.set_rng_state(mine["cuda"].clone(), device)
