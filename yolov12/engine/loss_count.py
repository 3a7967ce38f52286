# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loss sums and target counts, so that parts of a batch add up to the loss of the whole.

ultralytics divides the summed loss of a batch by its summed target scores (utils/loss.py:462). Averaging such quotients over parts or ranks
is not the quotient of the whole: a part with few objects would weigh as much as one with many. So a counted part contributes the sum
(quotient times its own divisor), and the division by the divisor of the whole comes once, when all parts are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.loss import v8DetectionLoss

from yolov12.log import say_once
from yolov12.model.loss import kernels
from yolov12.seams import Seam

SEAMS = (
    Seam("utils/loss.py", 423, "ultralytics.utils.loss.v8DetectionLoss.get_assigned_targets_and_loss", "b35c13578262"),
)

# Positions among the arguments of BboxLoss.forward (utils/loss.py:127).
TARGET_SCORES, TARGET_SCORES_SUM = 4, 5


class TargetCounter:
    """Listens to a detection criterion and notes by what it divided the last loss, and what it would have divided by unclamped."""

    def __init__(self, criterion: v8DetectionLoss) -> None:
        self.divisor: Tensor
        """The divisor of the last loss: the sum of target scores, at least 1. A scalar on the loss's device."""
        self.count: Tensor
        """The sum of target scores itself; 0 for a part without objects."""
        self._criterion = criterion
        self._handle = criterion.bbox_loss.register_forward_pre_hook(self._hear)
        kernels.listen(criterion, self._note)

    def _hear(self, module: Any, args: tuple[Tensor, ...]) -> None:
        del module
        self._note(args[TARGET_SCORES_SUM].detach(), args[TARGET_SCORES].detach().sum())

    def _note(self, divisor: Tensor, count: Tensor) -> None:
        self.divisor, self.count = divisor, count

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()
        kernels.listen(self._criterion, None)


def counter_for(criterion: Any) -> TargetCounter | None:
    """A counter for criteria with one divisor; None for others (end-to-end heads divide two losses by two different sums)."""
    return TargetCounter(criterion) if type(criterion) is v8DetectionLoss else None


class Provisional:
    """What loss sums are divided by before all targets are counted: the last step's targets per image. It keeps the loss at the size that fp16's
    scaler is used to.

    Args:
        device: of the loss.
        is_alone: whether nobody else must have the same number. Then the first part that is counted, which may follow many whole batches that were
            not, gives the first one; else that is 1.
    """

    def __init__(self, device: torch.device, is_alone: bool) -> None:
        self.targets_per_image = torch.ones((), device=device)
        """Always this tensor: a graph that was captured reads it where it is."""
        self._is_alone, self._is_known = is_alone, False

    def factor(self, counter: TargetCounter | None, images: int) -> Tensor | float:
        """What turns ultralytics' loss of a part with so many images, images * sum / divisor, into sum / provisional."""
        if counter is None:
            return 1.0
        if self._is_alone and not self._is_known:
            self._is_known = True
            self._take(counter.divisor / images)
        return counter.divisor / (images * self.targets_per_image)

    def corrected_by(self, counts: Tensor) -> Tensor:
        """What turns sums over it into those over what was counted, which takes its place.

        Args:
            counts: (targets, images) of all parts and ranks.
        """
        targets, images = counts
        counted = targets.clamp(min=1) / images
        correction = self.targets_per_image / counted
        self._is_known = True
        self._take(counted)
        return correction

    def kept(self) -> dict[str, Any]:
        """For `go_on_from` of a run that goes on elsewhere. The same on all ranks."""
        return {"targets_per_image": self.targets_per_image, "targets_are_known": self._is_known}

    def go_on_from(self, kept: dict[str, Any]) -> None:
        """Put back what `kept` gave. A checkpoint of an earlier version does not say whether its number was counted: all but 1 were."""
        self.targets_per_image.copy_(kept["targets_per_image"])
        self._is_known = bool(kept.get("targets_are_known", kept["targets_per_image"] != 1))

    def forget(self) -> None:
        """As at a run's beginning."""
        self.targets_per_image.fill_(1)
        self._is_known = False

    def _take(self, targets_per_image: Tensor) -> None:
        # A count of NaN (the weights are NaN) must not outlive the step that recovery throws away.
        self.targets_per_image.copy_(
            torch.where(targets_per_image.isfinite(), targets_per_image, self.targets_per_image)
        )


class Listener:
    """Attends to the criterion of a model, which ultralytics makes at the first loss (nn/tasks.py:464) and sometimes anew."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.counter: TargetCounter | None = None
        """Of the criterion that was last there; None before, and for one that divides by more than one number."""
        self._heard: Any = None

    def attend(self) -> None:
        """Before a loss: make the criterion if need be, and listen to it."""
        if getattr(self.model, "criterion", None) is None and hasattr(self.model, "init_criterion"):
            self.model.criterion = self.model.init_criterion()
        criterion = getattr(self.model, "criterion", None)
        if criterion is self._heard:
            return
        if self.counter is not None:
            self.counter.close()
        self._heard, self.counter = criterion, counter_for(criterion)
        if self.counter is None:
            say_once(
                f"uncounted {type(criterion).__name__}",
                f"loss: {type(criterion).__name__} has no single divisor; parts and ranks are weighted by images, as ultralytics' DDP does",
            )
