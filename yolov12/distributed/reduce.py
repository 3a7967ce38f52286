# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sum gradients over all ranks in a few large buckets.

There is no DDP reducer here: its all-reduces start during backward, before anyone can vote (design.md). Called after the vote, this is, but for
synchronised batch norm, the only place where a step communicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from yolov12.distributed.compress import Compression, sent_bytes
from yolov12.distributed.flat import BUCKET_BYTES, FlatBuffers, buckets

__all__ = ["Reducer", "broadcast_from_first", "buckets", "sum_over_ranks"]


def sum_over_ranks(
    tensors: Sequence[Tensor], group: dist.ProcessGroup | None = None, bucket_bytes: int = BUCKET_BYTES
) -> None:
    """Replace each tensor by its sum over all ranks, in place.

    Args:
        tensors: any shapes and strides, all on one device; the same list in the same order on every rank.
        bucket_bytes: tensors of one dtype are packed into flat buffers of about this size, one collective each.
    """
    room = FlatBuffers(tensors, bucket_bytes)
    room.take(tensors)
    for flat in room.flats:
        dist.all_reduce(flat, group=group)
    room.give(tensors)


def broadcast_from_first(tensors: Sequence[Tensor], bucket_bytes: int = BUCKET_BYTES) -> None:
    """Give every rank the values that rank 0 has, in place; packed as in `sum_over_ranks`."""
    room = FlatBuffers(tensors, bucket_bytes)
    room.take(tensors)
    for flat in room.flats:
        dist.broadcast(flat, src=0)
    room.give(tensors)


class Reducer:
    """Sums one model's gradients, step after step, in buffers that it keeps.

    Between the vote and the collectives nothing is allocated but a few numbers, which are asked for again where there is no room for them, so that
    no rank gives up while its peers wait.

    Args:
        like: the parameters that get gradients, or tensors like them.
        compresses: whether gradients travel as bf16 with error feedback (compress.py), half the bytes; counts always travel in full.
    """

    def __init__(self, like: Sequence[Tensor], compresses: bool = False) -> None:
        self.compresses = compresses
        self.bytes_sent = 0
        """What this rank has sent over the wire, by the algorithms' own arithmetic."""
        self.room = FlatBuffers(like)
        self._compressions = self._made_for(self.room)

    def sum(self, gradients: Sequence[Tensor], counts: Tensor, unit: Tensor | float = 1.0) -> None:
        """Replace gradients and counts by their sums over all ranks, in place. Every rank must call it with lists of the same kind.

        Args:
            gradients: like those that there is room for.
            counts: a small tensor, summed exactly.
            unit: of which the gradients are multiples, loss scale and divisor: what rounding left over is kept in the unit of the next step.
        """
        self.room.take(gradients)
        size = dist.get_world_size()
        for flat, compression in zip(self.room.flats, self._compressions, strict=True):
            if compression is None:
                dist.all_reduce(flat)
                self.bytes_sent += sent_bytes("all_reduce", flat.nbytes, size)
            else:
                self.bytes_sent += compression.sum(flat, unit)
        dist.all_reduce(counts)
        self.bytes_sent += sent_bytes("all_reduce", counts.nbytes, size)
        self.room.give(gradients)

    def make_room(self, gradients: Sequence[Tensor]) -> None:
        """Have buffers for lists like this one: anew where a layer was frozen, or is no more. To be called before the vote."""
        if not self.room.fits(gradients):
            room = FlatBuffers(gradients)
            # Both or neither: where there is no memory for one, the next attempt asks again.
            self.room, self._compressions = room, self._made_for(room)

    def forget(self) -> None:
        """Drop what rounding left over: the weights that it belongs to are gone."""
        for compression in self._compressions:
            if compression is not None:
                compression.forget()

    def _made_for(self, room: FlatBuffers) -> list[Compression | None]:
        size = dist.get_world_size() if self.compresses else 1
        return [
            Compression(flat, size) if self.compresses and flat.is_floating_point() else None for flat in room.flats
        ]
