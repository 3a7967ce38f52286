# SPDX-License-Identifier: AGPL-3.0-or-later
"""Binary cross-entropy of all class scores, a few images at a time.

Under autocast upstream's call (utils/loss.py:465) copies scores and targets to fp32, keeps both copies until backward, and needs as much again
for temporaries: at batch 256, 640 px and 80 classes each is 688 MB. Here the arguments are kept as they came. Loss and gradient are computed by
the same torch operations on slices of images; every element is computed alone, so that no value changes. (On the CPU `sigmoid` in the gradient
rounds the last few elements of an array in another way: there the gradient may differ in the last bit where slices have an odd length.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 2**30
"""With a quarter of it, the slices of 256 images cost 10 ms a step in launches on an H100."""

BYTES_PER_ELEMENT = 40
"""Alive at most in the backward pass of a slice: both arguments, loss, gradient and temporaries in fp32, and the results in half."""


def slices(tensor: Tensor, chunk_bytes: int) -> Iterator[slice]:
    """Slices of the first dimension that fit, each of at least one image."""
    images = max(chunk_bytes // (tensor[0].numel() * BYTES_PER_ELEMENT), 1) if len(tensor) else 1
    return (slice(first, first + images) for first in range(0, len(tensor), images))


class _Bce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, chunk_bytes: int) -> Tensor:
        ctx.chunk_bytes = chunk_bytes
        ctx.save_for_backward(logits, targets)
        loss: Tensor | None = None
        for some in slices(logits, chunk_bytes):
            part = F.binary_cross_entropy_with_logits(logits[some], targets[some], reduction="none")
            if loss is None:  # its dtype is autocast's affair
                loss = torch.empty_like(logits, dtype=part.dtype)
            loss[some] = part
        return torch.empty_like(logits) if loss is None else loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        result = torch.empty_like(logits)
        for some in slices(logits, ctx.chunk_bytes):
            # torch's own formula and order (torch/csrc/autograd/FunctionsManual.cpp, binary_cross_entropy_with_logits_backward)
            part = torch.sigmoid(logits[some].to(gradient.dtype))
            result[some] = part.sub_(targets[some]).mul_(gradient[some])
        return result, None, None


def bce_in_slices(logits: Tensor, targets: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """`binary_cross_entropy_with_logits(..., reduction="none")` of tensors of equal shape (images, ...); no gradient for `targets`."""
    result: Tensor = _Bce.apply(logits, targets, chunk_bytes)
    return result
