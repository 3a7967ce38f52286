# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small step whose gradients come from what stands in for a CUDA graph: the same memory each time, spoilt before it is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from yolov12.engine.attempt import Attempt, Batch
from yolov12.engine.step import Step


class Lending:
    """As `StepGraph` once it is captured."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.memory = [torch.zeros_like(parameter) for parameter in parameters]

    def run(self, batch: Batch, plan: object, no_room: str | None, attempt: Callable[[Batch], Attempt]) -> Attempt:
        for gradient in self.memory:
            gradient.fill_(float("nan"))  # a replay may use it for something else until the gradient is there
        made = attempt(batch)
        for parameter, gradient in zip(self.parameters, self.memory, strict=True):
            assert parameter.grad is not None
            parameter.grad = gradient.copy_(parameter.grad)
        return made.copied()


class NoPlan:
    """Stands in for the memory plan where there is room for everything."""

    is_measuring, plan, budget_bytes, known = False, None, None, None

    def before(self, shape: tuple[int, ...]) -> int:
        return 1

    def watched(self, peaks: object, parts: int) -> AbstractContextManager[None]:
        return nullcontext()

    def no_room(self, factor: float) -> None:
        return None


def small_step(layers: int = 3, lends: bool = True, vote_group: Any = None) -> Step:
    """Of a model of so many small layers."""
    torch.manual_seed(0)
    of = nn.Sequential(*[nn.Linear(4, 4) for _ in range(layers)])

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        made = of(batch["img"]).square().mean()
        return made, {name: made.detach() for name in ("box_loss", "cls_loss", "dfl_loss")}

    made = Step(of, forward_loss=loss, autocast=nullcontext, scale_loss=lambda loss: loss, vote_group=vote_group)
    if lends:
        stand_in: Any = Lending(made.parameters)
        made.graph, made.recomputation = stand_in, NoPlan()  # type: ignore[assignment]  # as far as they are used
    return made


def images(seed: int) -> Batch:
    """For a small step."""
    return {"img": torch.rand(2, 4, generator=torch.Generator().manual_seed(seed))}
