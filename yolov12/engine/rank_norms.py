# SPDX-License-Identifier: AGPL-3.0-or-later
"""`grad_clip=max_rank`: an update is clipped by the largest norm that a rank's own gradient has, and not only by that of what all have in common.

A rank's own gradient is that of its share of the batch as ultralytics computes it there: images times loss sum over the rank's own sum of target
scores, times the number of ranks. Under stock's DDP it is what a rank holds before DDP averages (engine/trainer.py:553); with accumulation it is the
sum over the batches of the update. With g_r for it and g for the reduced gradient,

    global      g * min(1, 10 / |g|)                        what stock does, and one process with the whole batch
    max_rank    g * min(1, 10 / max_r |g_r|), then as global

so it never clips less. An average of gradients that point in different directions is shorter than the longest of them, so it mostly clips more: one
share with an outlier in it shortens the whole update, where `global` lets the other shares drown it out. That is what it is for; it is no way to get
stock's numbers, and not those of one process either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from yolov12 import settings
from yolov12.log import say, warn
from yolov12.memory.failure import again

MAX_NORM = 10.0
"""ultralytics' (engine/trainer.py:909)."""
LEAST = 1e-6
"""Added to a norm before dividing by it, as torch's clip_grad_norm_ does."""


def if_asked(parameters: Sequence[Tensor], ranks: int) -> RankNorms | None:
    """What a run on so many ranks needs for it; None, with a line, where one process has nothing to compare, and where nobody asks.

    Args:
        parameters: of the model, in the order in which `RankNorms.add` gets their gradients.
    """
    if settings.current().grad_clip != "max_rank":
        return None
    if ranks < 2:
        say("grad_clip: max_rank -> global: there is one process, whose gradient is the whole one")
        return None
    say(
        f"grad_clip: max_rank: updates are clipped by the largest norm of {ranks} ranks' own gradients, which is no less than stock clips"
    )
    return RankNorms(parameters)


class RankNorms:
    """Adds up this rank's own gradients between two updates, in memory of its own that is made once; after its vote a step asks for few numbers.

    Args:
        parameters: of the model.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.own = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]

    @torch.no_grad()
    def add(
        self, places: Sequence[int], gradients: Sequence[Tensor], counts: Tensor, targets_per_image: Tensor | None
    ) -> None:
        """Add a batch's gradients as backward left them, before they are summed over the ranks.

        Args:
            places: of their parameters among those that this was made for.
            counts: the sum of target scores, and the images, of this rank alone.
            targets_per_image: the provisional divisor that they were made with (step.py); None where they are already those of ultralytics' own loss.
        """

        def factor_of() -> Tensor:
            made = torch.full_like(counts[0], dist.get_world_size())
            if targets_per_image is not None:
                targets, images = counts
                # At least one image: a rank without any has gradients of zero, and nothing can be divided by a factor of zero.
                made *= targets_per_image * images.clamp(min=1) / targets.clamp(min=1)
            return made

        factor = again(factor_of, warn)
        own = [self.own[place] for place in places]
        torch._foreach_div_(own, factor)  # in place: a product would be a second copy of the gradients
        torch._foreach_add_(own, list(gradients))
        torch._foreach_mul_(own, factor)

    @torch.no_grad()
    def clip(self, reduced: list[Tensor], loss_scale: Tensor) -> None:
        """Shorten the gradient of an update, in place, by the same on all ranks; what was added up is forgotten. Every rank must call it for each.

        Args:
            loss_scale: of which the gradients are multiples.
        """
        # A few numbers, but the other ranks wait in the collective for this one.
        largest = again(lambda: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.own))), warn)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        self.forget()
        torch._foreach_mul_(reduced, (MAX_NORM * loss_scale / (largest + LEAST)).clamp(max=1.0))

    @torch.no_grad()
    def go_on_from(self, held: Sequence[Tensor | None]) -> None:
        """What a resumed run had gathered for its next update counts as each rank's own: who had which part of it is not known any more."""
        for own, gradient in zip(self.own, held, strict=True):
            own.zero_() if gradient is None else own.copy_(gradient)

    def forget(self) -> None:
        """Drop what was added up."""
        torch._foreach_zero_(self.own)
