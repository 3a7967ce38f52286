# SPDX-License-Identifier: AGPL-3.0-or-later
"""A list of tensors in a few large flat buffers that are made once: what is communicated in each step then allocates nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BUCKET_BYTES = 64 * 2**20


class FlatBuffers:
    """Room for tensors like these, in buckets of one dtype and device.

    Args:
        like: their shapes, strides, dtypes and device; one list for all ranks.
        bucket_bytes: of a bucket at most, unless a single tensor is larger.
    """

    def __init__(self, like: Sequence[Tensor], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.kind = kind_of(like)
        order = {id(tensor): i for i, tensor in enumerate(like)}
        packed = buckets(like, bucket_bytes)
        self.places = [[order[id(tensor)] for tensor in bucket] for bucket in packed]
        """For each bucket the places in the list of what lies in it."""
        self.flats = [bucket[0].new_empty(sum(t.numel() for t in bucket)) for bucket in packed]
        self._views = [_views(flat, bucket) for flat, bucket in zip(self.flats, packed, strict=True)]

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a list has the shapes and formats of the one that this was made for."""
        return kind_of(tensors) == self.kind

    @torch.no_grad()
    def take(self, tensors: Sequence[Tensor]) -> None:
        """Copy the list into the buffers."""
        for views, places in zip(self._views, self.places, strict=True):
            torch._foreach_copy_(views, [tensors[i] for i in places])

    @torch.no_grad()
    def give(self, tensors: Sequence[Tensor]) -> None:
        """Copy the buffers into the list."""
        for views, places in zip(self._views, self.places, strict=True):
            torch._foreach_copy_([tensors[i] for i in places], views)


def kind_of(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    """What must be equal for two lists to share buffers."""
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def buckets(tensors: Sequence[Tensor], bucket_bytes: int) -> list[list[Tensor]]:
    """Pack tensors of equal dtype, in order, into lists of at most `bucket_bytes` each (one tensor may be larger)."""
    packed: list[list[Tensor]] = []
    open_bucket: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        bucket, used = open_bucket.get(tensor.dtype, ([], 0))
        if bucket and used + tensor.nbytes > bucket_bytes:
            bucket, used = [], 0
        if not bucket:
            packed.append(bucket)
        bucket.append(tensor)
        open_bucket[tensor.dtype] = (bucket, used + tensor.nbytes)
    return packed


def _views(flat: Tensor, bucket: list[Tensor]) -> list[Tensor]:
    """The parts of a buffer in the shapes of the tensors, and with their strides where those are dense: copies are then one launch."""
    views, first = [], 0
    for tensor in bucket:
        strides = torch.empty_like(tensor, device="meta").stride()  # a tensor's own where it is dense
        views.append(flat.as_strided(tensor.shape, strides, first))
        first += tensor.numel()
    return views
