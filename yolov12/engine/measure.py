# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run's own first steps take and need.

A warm-up with a micro-batch would need shapes that the run does not, and for each new shape cuDNN builds its plans anew, for seconds. So the
first steps of training measure themselves: CUDA events around each convolution of forward, and the allocator's peak in each phase. Nothing waits
for the GPU: events of a step are read some steps later, once they have passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from ultralytics.nn.modules.conv import Conv

from yolov12.engine.profile import Measured
from yolov12.memory.plan import Plan, Profile, peaks
from yolov12.model.fused.conv import Call, Watcher, watched_by

SKIPPED_STEPS = 1
"""In the first one cuDNN builds its plans and the optimizer makes its state."""
MEASURED_STEPS = 3
"""Of these the least time of each call counts, and the largest peak of each phase."""


class Clock(Protocol):
    """Of a device that works behind the program."""

    def mark(self) -> Any:
        """A point in its work."""

    def has_passed(self, mark: Any) -> bool:
        """Whether it has come there."""

    def between_ms(self, first: Any, last: Any) -> float:
        """Milliseconds between two marks that it has passed."""


class CudaClock:
    """CUDA events on the current stream."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def has_passed(self, mark: torch.cuda.Event) -> bool:
        return mark.query()

    def between_ms(self, first: torch.cuda.Event, last: torch.cuda.Event) -> float:
        return first.elapsed_time(last)


class Times(Watcher):
    """Three marks for each call of one step: before the convolution, after it, and after batch norm and activation."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.marks: list[Any] = []

    def begins(self) -> None:
        self.marks.append(self.clock.mark())

    def convolved(self) -> None:
        self.marks.append(self.clock.mark())

    def made(self, module: Conv, call: Call, output: Tensor) -> None:
        self.marks.append(self.clock.mark())

    def have_passed(self) -> bool:
        """Whether the marks can be read without waiting."""
        return not self.marks or self.clock.has_passed(self.marks[-1])

    def read(self, calls: int) -> tuple[list[float], list[float]] | None:
        """(convolution, rest) of each of the model's `calls`, in ms, summed over micro-batches; None if others ran than these."""
        if not self.marks or len(self.marks) % (3 * calls):
            return None
        convolution_ms, rest_ms = [0.0] * calls, [0.0] * calls
        for i in range(len(self.marks) // 3):
            begin, middle, end = self.marks[3 * i : 3 * i + 3]
            convolution_ms[i % calls] += self.clock.between_ms(begin, middle)
            rest_ms[i % calls] += self.clock.between_ms(middle, end)
        return convolution_ms, rest_ms


class FirstSteps:
    """Watches steps of one shape under one plan.

    Args:
        calls: of `Conv`s in the model's forward.
        clock: of the device.
    """

    def __init__(self, calls: int, clock: Clock) -> None:
        self.calls, self.clock = calls, clock
        self.seen = 0
        self.times: list[Times] = []
        self.peaks: dict[str, int] = {}
        """Of loss and backward, less what was in use before the step beyond the plan's fixed bytes."""

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one attempt at a step; one that fails does not count."""
        if self.seen < SKIPPED_STEPS:
            yield
        else:
            times = Times(self.clock)
            with watched_by(times):
                yield
            self.times.append(times)
        self.seen += 1

    def note(self, step: Mapping[str, int], grown_bytes: int) -> None:
        """The peaks of the step that was watched last."""
        if self.times:
            # Forward's own peak is at its end, where nearly as much is kept as in the loss. A model without a head of its own has no border there.
            loss = max(step.get("loss", 0), step.get("forward", 0))
            for phase, peak in (("loss", loss), ("backward", step.get("backward", 0))):
                self.peaks[phase] = max(self.peaks.get(phase, 0), peak - grown_bytes)

    @property
    def wants_more(self) -> bool:
        """Whether further steps are to be watched."""
        return self.seen < SKIPPED_STEPS + MEASURED_STEPS

    @property
    def can_be_read(self) -> bool:
        """Whether all is measured, and passed on the device."""
        return not self.wants_more and all(times.have_passed() for times in self.times)

    def read(self, profile: Profile, plan: Plan, before: Measured | None) -> Measured | None:
        """What was measured; None if other convolutions ran than the profile knows.

        Args:
            profile, plan: that the steps ran under.
            before: what the profile was made with.
        """
        found = [times.read(self.calls) for times in self.times]
        if not found or any(one is None for one in found):
            return None
        convolution_ms, rest_ms = (
            tuple(min(of_steps) for of_steps in zip(*part, strict=True))
            for part in zip(*(one for one in found if one is not None), strict=True)
        )
        expected = peaks(profile.part(plan.parts), plan.dropped)
        share = profile.share_of(plan.parts)
        expected[0] -= profile.chunked.part(share).more_bytes()
        loss = round((self.peaks["loss"] - int(expected[0])) / share)
        backward = round((self.peaks["backward"] - int(expected[1:].max())) / share)
        if before is not None:
            loss, backward = loss + before.loss_excess_bytes, backward + before.backward_excess_bytes
        return Measured(convolution_ms, rest_ms, loss, backward, plan.parts)
