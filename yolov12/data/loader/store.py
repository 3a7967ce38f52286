# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pictures that were decoded last, resized and on the device that renders: one decode serves a sample, and the mosaics that it comes into.

The memory is taken once, as one block with a place for each picture, so that it neither grows nor fragments while a run goes on. Where the whole
data set fits, it stays, and later epochs decode nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

LIMIT_BYTES = 2**30
"""For decoded pictures, unless one batch alone takes more: 873 at 640 x 640."""
LIMIT_SHARE = 0.05
"""The same, of a GPU's memory: half of what the memory plan leaves free, since `auto` may begin when the plan is made."""
RECENT_BATCHES, RECENT_PICTURES = 8, 1000
"""How far back partners of a mosaic may lie: ultralytics' buffer (data/base.py:168)."""


def limit_bytes(device: torch.device) -> int:
    """How much decoded pictures may take on `device`."""
    if device.type != "cuda":
        return LIMIT_BYTES
    return min(LIMIT_BYTES, int(LIMIT_SHARE * torch.cuda.get_device_properties(device).total_memory))


def sizes(pictures: int, batch: int, imgsz: int, limit: int = LIMIT_BYTES) -> tuple[int, int]:
    """(places in the store, how many of the last pictures may be partners), for so many `pictures` in batches of `batch`, within `limit` bytes.

    The places are at least as many as the partners, and these at least a batch.
    """
    fit = max(limit // (3 * imgsz**2), batch)
    recent = min(pictures, max(batch, min(RECENT_BATCHES * batch, RECENT_PICTURES, fit)))
    return min(pictures, max(recent, fit)), recent


def bytes_of(pictures: int, imgsz: int) -> int:
    """What so many places take."""
    return pictures * 3 * imgsz**2


class Store:
    """Decoded pictures by their index in the data set; the one that was used longest ago makes room.

    Not for several threads. On a GPU it belongs to the stream on which it is used.
    """

    def __init__(self, places: int, imgsz: int, device: torch.device) -> None:
        """Take the memory for `places` pictures of up to `imgsz` x `imgsz` pixels."""
        self.block = torch.empty((places, 3 * imgsz**2), dtype=torch.uint8, device=device)
        self._views: OrderedDict[int, tuple[int, Tensor]] = OrderedDict()
        self._free = list(range(places - 1, -1, -1))

    def __contains__(self, index: int) -> bool:
        return index in self._views

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> Tensor:
        """The picture (height, width, 3) uint8, a contiguous view: what it shows changes once its place is given away."""
        return self._views[index][1]

    def touch(self, indices: Sequence[int]) -> None:
        """Note that these, which are all there, are used now."""
        for index in indices:
            self._views.move_to_end(index)

    def put(self, index: int, picture: Tensor) -> None:
        """Keep a picture (height, width, 3) uint8 that is not there yet, on the store's device or in pinned memory."""
        place = self._place()
        kept = self.block[place, : picture.numel()].view(picture.shape)
        kept.copy_(picture, non_blocking=True)
        self._views[index] = place, kept

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        _, (place, _) = self._views.popitem(last=False)
        return place
