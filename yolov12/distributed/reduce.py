# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sum gradients over all ranks in a few large buckets.

There is no DDP reducer here: its all-reduces start during backward, before anyone can vote (design.md). Called after the vote, this is the
only place where a step communicates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 64 * 2**20


def sum_over_ranks(
    tensors: Sequence[Tensor], group: dist.ProcessGroup | None = None, bucket_bytes: int = BUCKET_BYTES
) -> None:
    """Replace each tensor by its sum over all ranks, in place.

    Args:
        tensors: any shapes and strides, all on one device; the same list in the same order on every rank.
        bucket_bytes: tensors of one dtype are packed into flat buffers of about this size, one collective each.
    """
    _in_buckets(tensors, bucket_bytes, lambda flat: dist.all_reduce(flat, group=group))


def broadcast_from_first(tensors: Sequence[Tensor], bucket_bytes: int = BUCKET_BYTES) -> None:
    """Give every rank the values that rank 0 has, in place; packed as in `sum_over_ranks`."""
    _in_buckets(tensors, bucket_bytes, lambda flat: dist.broadcast(flat, src=0))


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


def _in_buckets(tensors: Sequence[Tensor], bucket_bytes: int, collective: Callable[[Tensor], object]) -> None:
    for bucket in buckets(tensors, bucket_bytes):
        flat = _packed(bucket)
        collective(flat)
        pieces = flat.split([t.numel() for t in bucket])
        torch._foreach_copy_(list(bucket), [piece.view(t.shape) for piece, t in zip(pieces, bucket, strict=True)])


def _packed(bucket: list[Tensor]) -> Tensor:
    """One flat copy. Peers already wait in the collective, so a lack of memory is answered here: activations are gone, and the cache has room."""
    try:
        return torch.cat([t.reshape(-1) for t in bucket])
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
    return torch.cat([t.reshape(-1) for t in bucket])
