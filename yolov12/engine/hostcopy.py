# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of device tensors in host memory, fetched a few at a time instead of one by one.

A checkpoint of yolov12n holds about 1,000 tensors. Copied singly, each waits for the GPU; here all of one kind become one flat tensor first.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import DEFAULT_PROTOCOL


def fetch(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Contiguous copies on the CPU, found by the `id` of their original.

    Args:
        tensors: any shapes, dtypes, strides and devices.

    Returns:
        One copy per tensor, each with a storage of its own; a parameter's is a parameter.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        alike[tensor.device, tensor.dtype].append(tensor)
    copies = {}
    for originals in alike.values():
        for original, piece in zip(originals, _on_host(originals), strict=True):
            copy = piece.view(original.shape).clone()
            if isinstance(original, nn.Parameter):
                copy = nn.Parameter(copy, requires_grad=original.requires_grad)
            copies[id(original)] = copy
    return copies


def _on_host(originals: list[Tensor]) -> list[Tensor]:
    """Flat copies, by one transfer; singly where the device has no room for the flat tensor, as after a step that only just fitted."""
    try:
        flat = torch.cat([original.detach().reshape(-1) for original in originals])
    except torch.cuda.OutOfMemoryError:
        return [original.detach().cpu().reshape(-1) for original in originals]
    return list(flat.cpu().split([original.numel() for original in originals]))


class Frozen:
    """An object as it is now, to be made again later, in another thread too, while the original goes on changing.

    Everything but the tensors is pickled at once; that is little, and the objects are neither changed nor copied one by one: a deep copy of
    a model's hundreds of modules takes longer.

    Args:
        content: what to keep.
        copies: from `fetch`: what stands in for tensors. The originals must still be alive. A tensor without a copy is copied now, alone.
    """

    def __init__(self, content: Any, copies: Mapping[int, Tensor]) -> None:
        kept: dict[int, Tensor] = {}
        alive: list[Tensor] = []  # else the id of one that pickling made could come again as another's

        class Pickler(pickle.Pickler):
            def persistent_id(self, found: Any) -> int | None:
                if not isinstance(found, Tensor):
                    return None
                if id(found) not in kept:
                    alive.append(found)
                    kept[id(found)] = copies[id(found)] if id(found) in copies else fetch([found])[id(found)]
                return id(found)

        buffer = io.BytesIO()
        Pickler(buffer, DEFAULT_PROTOCOL).dump(content)
        self._pickled, self._copies = buffer.getvalue(), kept

    def thaw(self, change: Mapping[int, Tensor] | None = None) -> Any:
        """The object with the copies in it, which it shares with other calls; `change` has others for some of the originals' ids."""
        copies = {**self._copies, **(change or {})}

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, key: int) -> Tensor:
                return copies[key]

        return Unpickler(io.BytesIO(self._pickled)).load()
