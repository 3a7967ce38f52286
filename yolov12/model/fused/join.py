# SPDX-License-Identifier: AGPL-3.0-or-later
"""What lies between convolutions and computes next to nothing: concatenate, divide, upsample, and sum gradients, each in one pass over memory.

torch needs a pass for each, a slow kernel where a tensor is some channels of a wider one, and copies for those who take no such tensors. In
backward the engine adds the gradients of a tensor that is used several times two by two. Here a tensor hands out an alias for each use (`use`),
so that all its gradients arrive together, and the halves of a divided tensor get theirs in the pass that puts them side by side.

Ours runs while a model is followed (`following.tracking`), on tensors that our kernels take (docker/kernels/join.h). Elsewhere tensors go through
as they are, and everything is torch's. The operations work without the kernels too, where a test asks for that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from yolov12.model.fused.norm import kernels_missing

SPARE, COPY = "_yolov12_spare_aliases", "_yolov12_copy"
"""On a tensor: aliases for further uses, and what it is in memory by itself; each with the version that it had then."""
MOST_USES = 4
"""Of a tensor whose gradients are summed in one pass: what the kernel takes (kMostTerms). Further ones are added by the engine."""


class Doubled(NamedTuple):
    """Stands for what nearest upsampling by 2 makes of a tensor, where only a concatenation reads that, so that it need not exist."""

    tensor: Tensor


class Following(threading.local):
    """Whether a model is being followed in this thread."""

    depth = 0


following = Following()

unfollowed = torch._C.DisableTorchFunction
"""Within it lineages are not passed on: where an operation of ours does its work, each look at a tensor would else ask for Python's time."""


def serves(x: Any) -> bool:
    """Whether the operations of this module are worth while for `x`: a model is being followed, and the kernels take it."""
    return following.depth > 0 and isinstance(x, Tensor) and _is_taken(x)


def _is_taken(x: Tensor) -> bool:
    with unfollowed():
        is_learnt_from = x.is_cuda and x.requires_grad and torch.is_grad_enabled() and x.dim() == 4
        return is_learnt_from and kernels_missing(x.device) is None and torch.ops.yolov12_kernels.is_rows(x)


# ---- operations with gradients, for tensors that `serves` ----


def use(x: Tensor) -> Tensor:
    """An alias of `x` for one of its uses; the gradients of all of them are summed at once. `x` itself where it is not served."""
    return _alias(x) if serves(x) else x


def concatenated(parts: Sequence[Tensor | Doubled]) -> Tensor:
    """Along the channels. Parts of one dtype, of one size once the doubled ones are."""
    tensors = [part.tensor if isinstance(part, Doubled) else part for part in parts]
    with unfollowed():
        return _Concatenated.apply([isinstance(part, Doubled) for part in parts], *map(use, tensors))


def divided(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Views of channels that follow each other, of these numbers. Nobody may write into one of them: autograd would not notice."""
    with unfollowed():
        aliases = list(_Divided.apply(use(x), list(sizes)))
        parts = []
        for first in range(0, len(aliases), MOST_USES):
            part, *rest = aliases[first : first + MOST_USES]
            _give(part, rest)  # the part itself is what its uses are taken from, and the last of them
            parts.append(part)
        return tuple(parts)


def alone(x: Tensor) -> Tensor:
    """`x` for one use by who takes no part of a wider tensor: where it is one, a copy, which all such uses share.

    `x` itself where it is not served.
    """
    if not serves(x):
        return x
    with unfollowed():
        alias = _alias(x)
        if alias.is_contiguous(memory_format=torch.channels_last):
            return alias
        copy, version = getattr(x, COPY, (None, None))
        if version != x._version:
            copy = assembled([[x.detach()]])
            setattr(x, COPY, (copy, x._version))
        return _Alone.apply(alias, copy)


def _alias(x: Tensor) -> Tensor:
    with unfollowed():
        aliases, version = getattr(x, SPARE, (None, None))
        if version != x._version:  # never asked before, or written into since
            aliases = list(_Shared.apply(x))
            _give(x, aliases)
    return aliases.pop() if aliases else x


def _give(x: Tensor, aliases: list[Tensor]) -> None:
    setattr(x, SPARE, (aliases, x._version))


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return _aliases(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        return _total(grads)


class _Concatenated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, doubled: list[bool], *tensors: Tensor) -> Tensor:
        ctx.doubled, ctx.sizes = doubled, [tensor.shape[1] for tensor in tensors]
        return assembled([[tensor] for tensor in tensors], doubled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        parts = zip(grads[0].split(ctx.sizes, dim=1), ctx.doubled, needed, strict=True)
        return None, *(
            (halved(part) if is_doubled else part) if is_needed else None for part, is_doubled, is_needed in parts
        )


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.sizes = sizes
        return tuple(chain.from_iterable(_aliases(part) for part in x.split(sizes, dim=1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        ranges = [_existing(grads[first : first + MOST_USES]) for first in range(0, len(grads), MOST_USES)]
        if not any(ranges):
            return None, None
        like = next(chain.from_iterable(ranges))
        for size, found in zip(ctx.sizes, ranges, strict=True):
            if not found:  # nothing was learnt from these channels
                zeros = like.new_zeros((like.shape[0], size, *like.shape[2:]))
                found.append(zeros.contiguous(memory_format=torch.channels_last))
        return assembled(ranges), None


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, copy: Tensor) -> Tensor:
        return copy.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _aliases(x: Tensor) -> tuple[Tensor, ...]:
    """Detached, and no views to autograd: a view would hold `x`, which holds its spare aliases."""
    return tuple(x.detach() for _ in range(MOST_USES))


def _existing(grads: Sequence[Tensor | None]) -> list[Tensor]:
    # `use` hands out the last alias first, so this is the order in which the engine would add them: the last use's comes first.
    return [grad for grad in grads if grad is not None]


def _total(grads: Sequence[Tensor | None]) -> Tensor | None:
    found = _existing(grads)
    if len(found) <= 1:
        return found[0] if found else None
    return assembled([found])


# ---- in one pass, without gradients ----


def assembled(ranges: Sequence[Sequence[Tensor]], doubled: Sequence[bool] = ()) -> Tensor:
    """Ranges of channels side by side, each the sum of some tensors: float32, rounded once by our kernel, after each addition by torch.

    Args:
        ranges: (images, channels, height, width) each, those of a range with as many channels.
        doubled: of each tensor, whether it is upsampled by 2 before; then no range has several.
    """
    sources = list(chain.from_iterable(ranges))
    doubled = list(doubled) or [False] * len(sources)
    terms = [len(of_range) for of_range in ranges]
    if _is_ours(sources[0]) and torch.ops.yolov12_kernels.is_join(sources, terms, doubled):
        return torch.ops.yolov12_kernels.join(sources, terms, doubled)
    upsampled = (_upsampled(source) if twice else source for source, twice in zip(sources, doubled, strict=True))
    sums = [reduce(add, (next(upsampled) for _ in range(count))) for count in terms]
    is_new = len(sums) == 1 and sums[0] is not sources[0]
    return sums[0] if is_new else torch.cat(sums, dim=1)


def halved(x: Tensor) -> Tensor:
    """The sum of each two by two pixels: the gradient of nearest upsampling by 2."""
    if _is_ours(x) and torch.ops.yolov12_kernels.is_halvable(x):
        return torch.ops.yolov12_kernels.halve(x)
    size, before = x.shape[2:], (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
    return torch.ops.aten.upsample_nearest2d_backward(x, size, before, 2.0, 2.0)


def _is_ours(x: Tensor) -> bool:
    return x.is_cuda and kernels_missing(x.device) is None


def _upsampled(x: Tensor) -> Tensor:
    with torch.autocast(
        x.device.type, enabled=False
    ):  # which would make it float32, though repeating pixels is exact in any type
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
