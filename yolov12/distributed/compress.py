# SPDX-License-Identifier: AGPL-3.0-or-later
"""A sum over ranks of which every number travels as bf16, with error feedback: what rounding took away is added in the next step.

An all-reduce in bf16 would round after each addition, where nobody can keep what was lost. Here every rank sums its own share of the buffer in
full precision: it gets that share from all others as bf16, and hands the rounded sum to all. Both roundings are made up for, as in "1-bit Adam"
(Tang et al. 2021, arXiv:2102.02888, figure 3), and every rank ends with the same bits. That is half the bytes of a float32 ring all-reduce.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def sent_bytes(collective: str, nbytes: int, size: int) -> int:
    """What one rank sends in a collective over `size` ranks, of `nbytes` (for all_gather: of its output), by a ring or directly."""
    once = nbytes * (size - 1) // size
    return 2 * once if collective == "all_reduce" else once


class Compression:
    """Sums one flat buffer again and again, and keeps what rounding left over.

    Args:
        like: the buffer, float32 or float64.
        size: of the world.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self.size, self.length = size, like.numel()
        share = -(-self.length // size)
        self._whole = like.new_zeros(share * size)
        self._left_over = torch.zeros_like(self._whole)
        """Of this rank's gradients."""
        self._share = like.new_empty(share)
        self._share_left_over = torch.zeros_like(self._share)
        """Of the sum that this rank made."""
        self._sent = like.new_empty(share * size, dtype=torch.bfloat16)
        self._received = torch.empty_like(self._sent)
        self._rounded = like.new_empty(share, dtype=torch.bfloat16)
        self._unit: Tensor | None = None

    @torch.no_grad()
    def sum(self, flat: Tensor, unit: Tensor | float = 1.0) -> int:
        """Replace `flat` by its sum over all ranks; the bytes that this rank sent.

        Args:
            unit: of which the numbers in `flat` are multiples; equal on all ranks.
        """
        self._follow(torch.as_tensor(unit, device=flat.device))
        self._whole[: self.length].copy_(flat)
        _round(self._whole, self._left_over, into=self._sent)
        # As bytes: gloo knows no bf16, and moving needs no arithmetic.
        dist.all_to_all_single(self._received.view(torch.uint8), self._sent.view(torch.uint8))
        torch.sum(self._received.view(self.size, -1), 0, dtype=self._share.dtype, out=self._share)
        _round(self._share, self._share_left_over, into=self._rounded)
        dist.all_gather_into_tensor(self._sent.view(torch.uint8), self._rounded.view(torch.uint8))
        flat.copy_(self._sent[: self.length])
        return sent_bytes("all_to_all", self._sent.nbytes, self.size) + sent_bytes(
            "all_gather", self._sent.nbytes, self.size
        )

    def forget(self) -> None:
        """Drop what was left over."""
        self._left_over.zero_()
        self._share_left_over.zero_()

    def _follow(self, unit: Tensor) -> None:
        """Bring what was left over into the unit of this step. On the device: nothing waits."""
        if self._unit is None:
            self._unit = unit.clone()
            return
        ratio = (unit / self._unit).to(self._left_over.dtype)
        self._unit.copy_(unit)
        self._left_over.mul_(ratio)
        self._share_left_over.mul_(ratio)


def _round(values: Tensor, left_over: Tensor, into: Tensor) -> None:
    """bf16 of `values + left_over`; what is lost stays in `left_over`. Of inf and NaN nothing is kept: they would stay for ever."""
    values.add_(left_over)
    into.copy_(values)
    left_over.copy_(values).sub_(into).nan_to_num_(0.0, 0.0, 0.0)
