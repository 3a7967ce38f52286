# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is said when a run ends for want of memory: what memory went to, and where the allocator's snapshot lies."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov12.errors import ExitError
from yolov12.log import rank
from yolov12.memory.plan import Plan, Profile
from yolov12.wholefile import replacing

SHOWN = 5
"""Of the tensors that the model keeps, the largest."""

Sizes = list[tuple[str, int]]
"""(name, bytes)."""


def largest_kept(profile: Profile, plan: Plan | None) -> Sizes:
    """The largest tensors that a part of the batch keeps between forward and backward, by the name of the module."""
    if plan is None:
        return []
    kept = [
        (block.name, int(block.kept_bytes * profile.share_of(plan.parts)))
        for i, block in enumerate(profile.blocks)
        if i not in plan.dropped and block.kept_bytes
    ]
    return sorted(kept, key=lambda one: -one[1])[:SHOWN]


def totals(model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module) -> Sizes:
    """What does not depend on the images."""
    state = (value for of_one in optimizer.state.values() for value in of_one.values() if isinstance(value, Tensor))
    return [
        ("parameters and buffers", _bytes([*model.parameters(), *model.buffers()])),
        ("optimizer", _bytes(state)),
        ("EMA", _bytes([*ema.parameters(), *ema.buffers()])),
    ]


def explain(device: torch.device, folder: Path, sizes: Sequence[tuple[str, int]]) -> str:
    """The end of an error message; begins with `; `. Fails at nothing: it is called while a run ends, and other ranks wait for its vote.

    Args:
        folder: of the run; the snapshot is written there where the device has an allocator that can be asked.
    """
    told = "; memory went to: " + ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sizes)
    if device.type != "cuda":
        return told
    path = folder / f"out-of-memory-rank{rank()}.pickle"
    try:
        write_snapshot(path, torch.cuda.memory._snapshot(device))
    except (OSError, RuntimeError, ExitError) as error:
        return f"{told}; the allocator's snapshot could not be written: {str(error).splitlines()[0]}"
    return f"{told}; the allocator's snapshot, for https://pytorch.org/memory_viz, is {path}"


def write_snapshot(path: Path, snapshot: Any) -> None:
    """As torch.cuda.memory._dump_snapshot does, but whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        pickle.dump(snapshot, file)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
