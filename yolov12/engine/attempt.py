# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an attempt at a step brings, beside the gradients that it leaves in the parameters; what becomes of those; and what a step tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yolov12.distributed.vote import Wish

Batch = dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """A whole batch's, or one part's."""

    loss: Tensor
    items: dict[str, Tensor]
    counts: Tensor | None
    """(targets, images) of this rank where parts or ranks must be added up, else None."""
    lends_gradients: bool = False
    """Whether those in the parameters lie in memory that another attempt may write into."""

    def copied(self) -> Attempt:
        """With tensors of its own, so that what made it may run again; the gradients it lends."""
        tensors = [self.loss, *self.items.values(), *([] if self.counts is None else [self.counts])]
        # Times one is the one copy of a list that needs no list of targets.
        loss, *items = torch._foreach_mul(tensors, 1)
        counts = None if self.counts is None else items.pop()
        return Attempt(loss, dict(zip(self.items, items, strict=True)), counts, lends_gradients=True)


@dataclass(frozen=True)
class StepResult:
    """What a committed step has to tell."""

    loss: Tensor
    """This rank's share of the optimised loss (images times mean loss), a detached scalar on the device."""
    items: dict[str, Tensor]
    """Each component's mean loss over this rank's images, detached."""
    own_loss: Tensor
    """The same as backward began from it, over the divisor that was provisional then."""
    wish: Wish = Wish.GO_ON
    """The strongest of what the ranks want to happen next."""

    @property
    def is_finite(self) -> Tensor:
        """Whether this rank's own loss was, a boolean on the device."""
        return self.own_loss.isfinite()


def fill_missing(parameters: Iterable[nn.Parameter]) -> None:
    """Zeros for gradients that are not there: every rank must reduce the same list, also where one rank's data left a parameter unused."""
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def put_aside(held: list[Tensor | None], present: Sequence[tuple[int, Tensor]]) -> bool:
    """Add gradients to what is held of earlier steps.

    Args:
        held: one per parameter; None where there is nothing yet.
        present: (the parameter's place, its gradient).

    Returns:
        Whether some of these gradients are held themselves now, and not their sum with earlier ones.
    """
    earlier = [before for i, _ in present if (before := held[i]) is not None]
    if len(earlier) == len(present):
        torch._foreach_add_(earlier, [gradient for _, gradient in present])
        return False
    for i, gradient in present:  # the first step since an update, or a parameter that was frozen until now
        before = held[i]
        held[i] = gradient if before is None else before.add_(gradient)
    return True


def loaded(saved: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """What was held in a run that is gone on with, on the parameters' device and with their strides, without which torch's fused Adam refuses it."""
    pairs = zip(saved, parameters, strict=True)
    return [None if one is None else torch.empty_like(parameter).copy_(one) for one, parameter in pairs]


def copies_of(held: list[Tensor | None]) -> list[Tensor | None]:
    """The same numbers in memory of their own; nothing where nothing is held."""
    present = [gradient for gradient in held if gradient is not None]
    copies = iter(torch._foreach_mul(present, 1) if present else ())
    return [None if gradient is None else next(copies) for gradient in held]
