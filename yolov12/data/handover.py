# SPDX-License-Identifier: AGPL-3.0-or-later
"""How loader workers hand batches to the training process when /dev/shm is too small.

PyTorch moves every tensor from a worker through shared memory, whatever the sharing strategy is called ("file_system" keeps its files in
/dev/shm too). A container has 64 MiB of it unless told otherwise. A worker that runs out dies with a bus error, or loses its batch, and then
the training process waits for it for ever. NumPy arrays are different: they are pickled by value and travel through the worker's pipe. So
where shared memory is short, a batch leaves its worker as arrays and is turned back into tensors, without another copy, while it is unpickled
on the other side. The loader, its pinning thread and the trainer see the same batches as before; each costs a few more copies.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

SHM = Path("/dev/shm")
_SPARE_BYTES = 8 * 2**20
"""For semaphores, the communication library and others who use the same shared memory."""
_PADDING = 1.25
"""A validation batch is padded beyond imgsz, and labels travel along."""

Collate = Callable[[list[Any]], Any]


def choose(wanted_bytes: int, free_bytes: int | None) -> tuple[str, str]:
    """Decide between "shared" memory and "pipe" for a loader that has up to `wanted_bytes` in flight, and say why.

    `free_bytes` is what /dev/shm has left, None where there is no such folder (not Linux: PyTorch shares memory another way).
    """
    if wanted_bytes == 0:
        return "shared", "no worker processes"
    if free_bytes is None:
        return "shared", f"no {SHM} on this system"
    sizes = f"{SHM} has {_mib(free_bytes)} free, and batches in flight may take {_mib(wanted_bytes)}"
    return ("shared" if wanted_bytes + _SPARE_BYTES <= free_bytes else "pipe"), sizes


def wanted_bytes(workers: int, prefetch: int, batch: int, bytes_per_image: int, ranks: int = 1) -> int:
    """Most bytes that one loader's batches take in shared memory, on all `ranks` of this machine together.

    Each worker fills `prefetch` batches ahead; one more is in the trainer's hands and one in the pinning thread's.
    """
    in_flight = workers * prefetch + 2 if workers else 0
    return int(in_flight * batch * bytes_per_image * _PADDING) * ranks


def free_bytes() -> int | None:
    """What /dev/shm has left now; None where there is none."""
    return shutil.disk_usage(SHM).free if SHM.is_dir() else None


class ByValue:
    """A collate function whose batches leave a worker by value instead of through shared memory.

    Only for loaders with workers: what it returns becomes a batch by being pickled.
    """

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Parcel:
        """Collate in the worker, except with PyTorch's own function, which allocates the batch in shared memory if a worker calls it."""
        if self.collate is default_collate:
            return Parcel(samples, default_collate)
        return Parcel(self.collate(samples), None)


class Parcel:
    """A batch on its way out of a worker; unpickling it gives the batch itself, a tree of tensors, not a `Parcel`."""

    def __init__(self, content: Any, on_arrival: Collate | None) -> None:
        self.content = content
        self.on_arrival = on_arrival

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, (_map_leaves(_to_sendable, self.content), self.on_arrival)


class _Sent:
    """A tensor as its array; it wraps the array so that a batch's own NumPy arrays stay arrays."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def _unpack(content: Any, on_arrival: Collate | None) -> Any:
    batch = _map_leaves(_to_tensor, content)
    return batch if on_arrival is None else on_arrival(batch)


def _to_sendable(leaf: Any) -> Any:
    return _Sent(leaf.numpy()) if isinstance(leaf, torch.Tensor) else leaf


def _to_tensor(leaf: Any) -> Any:
    return torch.from_numpy(leaf.array) if isinstance(leaf, _Sent) else leaf


def _map_leaves(change: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `change` to everything in `tree` that is not a plain dictionary, list or tuple."""
    if type(tree) is dict:
        return {key: _map_leaves(change, value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_map_leaves(change, value) for value in tree)
    return change(tree)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
