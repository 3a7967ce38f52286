# SPDX-License-Identifier: AGPL-3.0-or-later
"""Do all ranks hold the same numbers? Asked by digests, so that nothing large travels.

A tensor's digest is its norm and its product with a fixed vector of random signs. The difference of two products estimates the distance of the
two tensors (its mean square is the square of that distance), which a difference of norms or sums does not: one flipped sign is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from yolov12.distributed.flat import FlatBuffers

TOLERANCE = 1e-5
"""Relative distance. On GPUs of one kind all bits are equal."""
SEED = 12
PIECE = 4096
"""Numbers of a tensor that are summed as one segment, since a GPU gives each segment to one block: a large tensor is many of them."""

Digests = list[tuple[float, float]]
"""(product with the signs, norm) for each tensor."""


class Fingerprints:
    """Makes the digests of lists of tensors of one kind.

    Args:
        room: scratch memory for such a list, what is in it is overwritten.
    """

    def __init__(self, room: FlatBuffers) -> None:
        self.room = room
        generator = torch.Generator().manual_seed(SEED)
        longest = max((len(flat) for flat in room.flats), default=0)
        signs = torch.randint(0, 2, (longest,), generator=generator, dtype=torch.int8) * 2 - 1
        self._signs = signs.to(room.flats[0].device) if room.flats else signs
        sizes = [math.prod(shape) for shape, _ in room.kind]
        self._lengths = [
            _in_pieces([sizes[i] for i in places], flat.device)
            for places, flat in zip(room.places, room.flats, strict=True)
        ]
        order = [i for places in room.places for i in places]
        # On the device: with a list, each look-up would send it there and wait.
        self._back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=self._signs.device)

    @torch.no_grad()
    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """(tensors, 2) float64 on their device; nothing waits for it."""
        self.room.take(tensors)
        products = []
        for flat, (of_pieces, of_tensors) in zip(self.room.flats, self._lengths, strict=True):
            flat.mul_(self._signs[: len(flat)])
            products.append(_sums(_sums(flat, of_pieces).double(), of_tensors))
        norms = torch.stack(torch._foreach_norm(list(tensors))).double()
        return torch.stack([torch.cat(products)[self._back], norms], 1)


def _in_pieces(sizes: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """(numbers of each piece, pieces of each tensor) of tensors that lie one after the other."""
    counts = [-(-size // PIECE) for size in sizes]
    lengths = [min(PIECE, size - first) for size in sizes for first in range(0, size, PIECE)]
    return torch.tensor(lengths, device=device), torch.tensor(counts, device=device)


def _sums(numbers: Tensor, lengths: Tensor) -> Tensor:
    # Unsafe: without looking whether the lengths make up the whole, for which the host would wait for the GPU three times.
    return torch.segment_reduce(numbers, "sum", lengths=lengths, unsafe=True)


def first_difference(of_ranks: Sequence[Digests]) -> tuple[int, int, float] | None:
    """The first tensor in which two ranks differ: (its place, the rank, the relative distance); None if all agree.

    The rank is the one farthest from the median of all; of two ranks it is the second, since nobody can tell which is right.
    """
    for place, digests in enumerate(zip(*of_ranks, strict=True)):
        products = [product for product, _ in digests]
        norm = max((norm for _, norm in digests if math.isfinite(norm)), default=0.0)
        if len({math.isfinite(product) for product in products}) == 2:
            return place, next(rank for rank, product in enumerate(products) if not math.isfinite(product)), math.inf
        if not math.isfinite(products[0]) or norm == 0.0:
            continue
        median = sorted(products)[(len(products) - 1) // 2] if len(products) > 2 else products[0]
        rank = max(range(len(products)), key=lambda rank: abs(products[rank] - median))
        distance = abs(products[rank] - median) / norm
        if distance > TOLERANCE:
            return place, rank, distance
    return None
