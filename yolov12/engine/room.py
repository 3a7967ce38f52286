# SPDX-License-Identifier: AGPL-3.0-or-later
"""Room for copies of many tensors: a few flat buffers whose memory exists only while it is needed, and views into them that stay.

A list operator that returns new tensors makes a Python object of each, 1,400 in an update, for which the loop needs Python's lock. Views outlive the
memory below them, as those of torch's FSDP do (torch/distributed/utils.py, _free_storage), so that an update makes none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from yolov12.distributed.flat import BUCKET_BYTES, buckets

ALIGNED_BYTES = 16
"""Where a view may begin: operators on lists read so many bytes at once."""


class Room:
    """Room for copies of tensors like these; it takes memory from `claim` to `release`.

    Args:
        like: their shapes, strides, dtypes and devices.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        order = {id(tensor): i for i, tensor in enumerate(like)}
        self._buckets: list[_Bucket] = []
        for alike in _by_device(like):
            for packed in buckets(alike, BUCKET_BYTES):
                self._buckets.append(_Bucket(packed, [order[id(tensor)] for tensor in packed]))

    @torch.no_grad()
    def take(self, tensors: Sequence[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Copy tensors; all memory is there before the first is copied.

        Args:
            tensors: of the shapes, dtypes and devices that this was made for; with their strides too, a copy is one launch for each buffer.

        Returns:
            Lists of the tensors and of their copies, which hold until `release`.
        """
        for bucket in self._buckets:
            bucket.claim()
        taken = [([tensors[i] for i in bucket.places], bucket.views) for bucket in self._buckets]
        for live, copies in taken:
            torch._foreach_copy_(copies, live)
        return taken

    def release(self) -> None:
        """Give the memory back; also where not all of it could be had."""
        for bucket in self._buckets:
            bucket.release()


class _Bucket:
    """One flat buffer for tensors of one dtype and device."""

    def __init__(self, like: Sequence[Tensor], places: list[int]) -> None:
        self.places = places
        flat = like[0].new_empty(0)
        self._storage = flat.untyped_storage()
        firsts, self._bytes = [], 0
        for tensor in like:
            firsts.append(self._bytes // flat.itemsize)
            self._bytes += -(-tensor.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES
        self.claim()  # views can be made of memory alone
        try:
            self.views = [
                flat.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride(), first)
                for tensor, first in zip(like, firsts, strict=True)
            ]
        finally:
            self.release()

    def claim(self) -> None:
        self._storage.resize_(self._bytes)

    def release(self) -> None:
        self._storage.resize_(0)


def _by_device(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        found[tensor.device].append(tensor)
    return list(found.values())
