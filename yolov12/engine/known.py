# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is known of a model's step on images of one shape: by a trace at first, then by an earlier run's measurement or this run's own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from yolov12.engine import measured_cache
from yolov12.engine.measure import FirstSteps
from yolov12.engine.profile import Measured, anchors_of, profile
from yolov12.memory.plan import Plan, Profile, peaks
from yolov12.model.fused.norm import kernels_missing
from yolov12.model.fused.trace import Trace

AGREES = 0.03
"""A measurement of an earlier run is believed while this run's differs by no more."""

Shape = tuple[int, int, int, int]


class Learned(NamedTuple):
    """What the first steps told."""

    needed_bytes: int
    """By the plan that they ran under."""
    change: float
    """Of that, over what was expected."""
    is_news: bool
    """Whether a plan should be made anew: nothing was measured before, or something else."""


class Known:
    """Of one shape.

    Args:
        model: that is trained.
        trace: of it on images of `shape`, (images, channels, height, width).
        device, dtype: that convolutions run on and in.
        fixed_bytes: in use whatever the plan.
        left_alone: names of modules that planning leaves alone.
        most_boxes: of one image.
        cache: folder for measurements; None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        trace: Trace,
        shape: Shape,
        device: torch.device,
        dtype: torch.dtype,
        fixed_bytes: int,
        left_alone: Collection[str] = (),
        most_boxes: int = 0,
        cache: Path | None = None,
    ) -> None:
        self.trace, self.shape, self.fixed_bytes, self.left_alone = trace, shape, fixed_bytes, left_alone
        self.assigned = shape[0] * anchors_of(model, shape[2:]), most_boxes
        self.loss_by_kernels = kernels_missing(device) is None
        self.measured: Measured | None = None
        self.why = "estimated; the first steps measure"
        """Where the numbers are from."""
        self.kept_in = None if cache is None else (cache, measured_cache.key_of(trace, device, dtype))
        if self.kept_in is not None and (found := measured_cache.load(*self.kept_in, calls=self.calls)) is not None:
            self.measured, self.why = found, "measured by an earlier run"
        self.profile = self._profile()

    @property
    def calls(self) -> int:
        """Of `Conv`s in forward."""
        return len(self.trace.convolutions)

    def learn(self, steps: FirstSteps, plan: Plan) -> Learned | None:
        """Take over what steps under a plan measured; None if others ran than were traced."""
        found = steps.read(self.profile, plan, self.measured)
        if found is None:
            return None
        earlier, self.measured, self.why = self.measured, found, "measured"
        self.profile = self._profile()
        needed = int(peaks(self.profile.part(plan.parts), plan.dropped).max())
        change = needed / max(plan.peak_bytes, 1) - 1
        is_news = earlier is None or abs(change) > AGREES
        # What smaller parts need beyond the estimate is less than what larger ones do, which the next run may have room for.
        if is_news and self.kept_in is not None and (earlier is None or plan.parts <= earlier.parts):
            measured_cache.store(*self.kept_in, found)
        return Learned(needed, change, is_news)

    def _profile(self) -> Profile:
        return profile(
            self.trace, self.fixed_bytes, self.left_alone, self.measured, self.assigned, self.loss_by_kernels
        )
