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
    """Where a copy is: `count` elements of the flat tensor with the number `flat`, from element `start` on, in contiguous order."""

    flat: int
    start: int
    count: int

    def storage(self, flats: Sequence[Tensor]) -> torch.UntypedStorage:
        """The copy's bytes, as a storage of their own that looks into the flat tensor: in a file it brings nothing else along."""
        flat = flats[self.flat]
        return flat.untyped_storage()[self.start * flat.itemsize : (self.start + self.count) * flat.itemsize]


class Copies:
    """Contiguous copies on the CPU, found by the `id` of their original, which must stay alive as long as one asks for it."""

    def __init__(self) -> None:
        self.flats: list[Tensor] = []
        self._pieces: dict[int, Piece] = {}

    def add(self, tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> range:
        """Copy those that have no copy yet.

        Args:
            tensors: any shapes, dtypes, strides and devices.
            dtype: of the copies; None for that of each original.

        Returns:
            The numbers of the flat tensors that were made: one for each device and dtype.
        """
        alike: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = defaultdict(dict)
        for tensor in tensors:
            if id(tensor) not in self._pieces:
                alike[tensor.device, tensor.dtype][id(tensor)] = tensor
        first = len(self.flats)
        for originals in alike.values():
            start = 0
            for key, original in originals.items():
                self._pieces[key] = Piece(len(self.flats), start, original.numel())
                start += original.numel()
            flat = _on_host(list(originals.values()))
            self.flats.append(flat if dtype is None else flat.to(dtype))
        return range(first, len(self.flats))

    def piece(self, original: Tensor) -> Piece:
        """Where its copy is. It is copied now, alone, where it has none."""
        found = self._pieces.get(id(original))
        if found is None:
            self.add([original])
            found = self._pieces[id(original)]
        return found


@torch.no_grad()
def _on_host(originals: list[Tensor]) -> Tensor:
    """One behind the other, by one transfer; singly where the device has no room for the flat tensor, as after a step that only just fitted."""
    try:
        return torch.cat([original.reshape(-1) for original in originals]).cpu()
    except torch.cuda.OutOfMemoryError:
        return torch.cat([original.cpu().reshape(-1) for original in originals])
