# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of device tensors in host memory, fetched all at once instead of one by one.

A checkpoint of yolov12n holds about 1,000 tensors. Copied singly, each waits for the GPU; here all of one kind become one flat tensor first. On
the host they stay in it: a copy is a range of it, which costs nothing to make.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a copy is: `count` elements of the flat tensor with the number `flat`, from element `start` on."""

    flat: int
    start: int
    count: int
    strides: tuple[int, ...]
    """In which order they lie, in elements."""

    def storage(self, flats: Sequence[Tensor]) -> torch.UntypedStorage:
        """The copy's bytes, as a storage of their own that looks into the flat tensor: in a file it brings nothing else along."""
        flat = flats[self.flat]
        return flat.untyped_storage()[self.start * flat.itemsize : (self.start + self.count) * flat.itemsize]


class Copies:
    """Copies on the CPU, found by the `id` of their original, which must stay alive as long as one asks for it."""

    def __init__(self) -> None:
        self.flats: list[Tensor] = []
        self._pieces: dict[int, Piece] = {}

    def add(self, tensors: Iterable[Tensor], dtype: torch.dtype | None = None, as_they_lie: bool = False) -> range:
        """Copy those that have no copy yet.

        Args:
            tensors: any shapes, dtypes, strides and devices.
            dtype: of the copies; None for that of each original.
            as_they_lie: whether copies of tensors in channels_last are so too; else all are contiguous.

        Returns:
            The numbers of the flat tensors that were made: one for each device and dtype.
        """
        alike: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = defaultdict(dict)
        for tensor in tensors:
            if id(tensor) not in self._pieces:
                alike[tensor.device, tensor.dtype][id(tensor)] = tensor
        first = len(self.flats)
        for originals in alike.values():
            start, strides = 0, [_strides(original, as_they_lie) for original in originals.values()]
            for (key, original), its in zip(originals.items(), strides, strict=True):
                self._pieces[key] = Piece(len(self.flats), start, original.numel(), its)
                start += original.numel()
            flat = _on_host(list(originals.values()), strides)
            self.flats.append(flat if dtype is None else flat.to(dtype))
        return range(first, len(self.flats))

    def piece(self, original: Tensor) -> Piece:
        """Where its copy is. It is copied now, alone, where it has none."""
        found = self._pieces.get(id(original))
        if found is None:
            self.add([original])
            found = self._pieces[id(original)]
        return found


def _strides(tensor: Tensor, as_it_lies: bool) -> tuple[int, ...]:
    if as_it_lies and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.stride()
    strides, stride = [], 1
    for length in reversed(tensor.shape):
        strides.append(stride)
        stride *= max(length, 1)
    return tuple(reversed(strides))


@torch.no_grad()
def _on_host(originals: list[Tensor], strides: list[tuple[int, ...]]) -> Tensor:
    """One behind the other, by one transfer; singly where the device has no room for the flat tensor, as after a step that only just fitted."""
    both = list(zip(originals, strides, strict=True))
    try:
        return torch.cat([_row(original, its) for original, its in both]).cpu()
    except torch.cuda.OutOfMemoryError:
        return torch.cat([_row(original.cpu(), its) for original, its in both])


def _row(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Its elements in the order that they have with these strides: its own, or contiguous ones."""
    return tensor.as_strided((tensor.numel(),), (1,)) if tensor.stride() == strides else tensor.reshape(-1)
