# SPDX-License-Identifier: AGPL-3.0-or-later
"""Watches what a run needs and tells it: memory.csv after each epoch, some lines and memory.png at the end. What it says is in memory/report.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist

from yolov12.distributed.world import from_all
from yolov12.engine.results import drop_rows_after
from yolov12.engine.step import Step
from yolov12.log import rank, say
from yolov12.memory import report
from yolov12.memory.peaks import BETWEEN
from yolov12.memory.picture import draw
from yolov12.memory.plan import Plan
from yolov12.memory.usage import Course, Point, Spread


@dataclass
class _SoFar:
    """Of the epoch that runs."""

    retries_before: int = 0
    plans_before: int = 0
    smaller_before: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    """Phase -> most that was in use."""
    micro_batches: int = 1
    peaks: Spread = field(default_factory=Spread)
    share: Spread = field(default_factory=Spread)
    ms: Spread = field(default_factory=Spread)

    @property
    def peak(self) -> int:
        return max(self.phases.values(), default=0)

    def saw(self, phases: Mapping[str, int]) -> None:
        """Peaks of a step, or of a phase outside of one."""
        for phase, size in phases.items():
            self.phases[phase] = max(self.phases.get(phase, 0), size)


class MemoryReport:
    """Of one process; what it writes, rank 0 writes for all. Every rank must call `after_epoch` and `finish`: they gather what the others saw.

    Args:
        step: whose peaks, plan and history are read. Nothing here waits for the device.
        folder: of the run.
        vote_group: CPU process group; None when this process is alone.
    """

    def __init__(self, step: Step, folder: Path, vote_group: dist.ProcessGroup | None) -> None:
        self.step, self.folder, self.vote_group = step, folder, vote_group
        self.course = Course()
        self._peaks_of_run, self._share_of_run, self._ms_of_run = Spread(), Spread(), Spread()
        self._plan: Plan | None = None
        self._share = 0.0
        """Cost of what the plan computes again over what forward costs."""
        self._ms: float | None = None
        """The same in milliseconds, once the first steps were measured."""
        self._epoch = _SoFar()

    @property
    def table(self) -> Path:
        return self.folder / "memory.csv"

    def begin(self, start_epoch: int) -> None:
        """Before training: a resumed run goes on with the table behind the epochs that its checkpoint holds."""
        if rank() == 0:
            drop_rows_after(self.table, start_epoch)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a phase that is not part of the step: its peak gets a name of its own."""
        self.step.peaks.begin(name)
        try:
            yield
        finally:
            self.step.peaks.begin(BETWEEN)
            self._epoch.saw({name: self.step.peaks.step.get(name, 0)})

    def after_step(self) -> None:
        """A step was committed, and the weights updated if that was due."""
        recomputation = self.step.recomputation
        plan = recomputation.plan if recomputation else None
        if recomputation and plan is not self._plan:
            self._plan, self._share, self._ms = plan, 0.0, None
            if plan and (known := recomputation.known):
                self._share = plan.share(known.profile)
                self._ms = plan.cost(known.profile) if known.measured else None
        for share, ms in ((self._epoch.share, self._epoch.ms), (self._share_of_run, self._ms_of_run)):
            share.add(self._share)
            if self._ms is not None:
                ms.add(self._ms)
        self._epoch.micro_batches = max(self._epoch.micro_batches, self.step.micro_batches, plan.parts if plan else 1)
        peak = max(self.step.peaks.step.values(), default=0)
        if peak:
            self._epoch.saw(self.step.peaks.step)
            self._epoch.peaks.add(peak)
            self._peaks_of_run.add(peak)
            budget = recomputation.budget_bytes if recomputation else None
            self.course.add(Point(self.step.history.steps - 1, peak, budget))

    def after_epoch(self, epoch: int) -> None:
        """Append a row, for all ranks together.

        Args:
            epoch: from 1.

        Raises:
            PeerFailedError: another rank did not take part.
        """
        row = report.worst(from_all(self._row(epoch), self.vote_group))
        history = self.step.history
        self._epoch = _SoFar(history.count("retry"), history.count("plan"), history.smaller_steps)
        if rank() == 0 and report.tells_something(row):
            is_new = not self.table.exists()
            with self.table.open("a", encoding="utf-8") as table:
                table.write((report.header() if is_new else "") + report.row(row))

    def finish(self, plots: bool, draw_plot: Callable[..., None] = draw) -> None:
        """At the end of training: the lines, and the picture of rank 0's steps if `plots` asks for pictures.

        Args:
            plots: whether it does.
            draw_plot: what is called in the place of `yolov12.memory.picture.draw`.

        Raises:
            PeerFailedError: another rank did not take part.
        """
        for line in report.lines(from_all(self._summary(), self.vote_group)):
            say(line)
        if rank() == 0 and plots and len(self.course.points) > 1:
            draw_plot(self.folder / "memory.png", self.course.points, self.step.history.events)

    def _row(self, epoch: int) -> report.Epoch:
        history, is_counted = self.step.history, self._epoch.peak > 0
        recomputation, phases = self.step.recomputation, self._epoch.phases
        inputs = outputs = 0
        if recomputation and recomputation.plan and recomputation.known:
            inputs = sum(recomputation.known.profile.blocks[i].is_input for i in recomputation.plan.dropped)
            outputs = len(recomputation.plan.dropped) - inputs
        return report.Epoch(
            epoch=epoch,
            peak_allocated_gib=self._epoch.peak / 2**30 if is_counted else None,
            peak_reserved_so_far_gib=self.step.peaks.highest_reserved / 2**30 if is_counted else None,
            step_peaks_std_gib=self._epoch.peaks.std / 2**30 if is_counted else None,
            repeated_steps=history.count("retry") - self._epoch.retries_before,
            plan_changes=history.count("plan") - self._epoch.plans_before,
            micro_batches=self._epoch.micro_batches,
            convolutions_computed_again=outputs,
            inputs_rebuilt=inputs,
            share_of_forward_computed_again=self._epoch.share.mean,
            steps_on_smaller_images=history.smaller_steps - self._epoch.smaller_before,
            recomputed_ms_a_step=self._epoch.ms.mean if self._epoch.ms.count else None,
            **{f"peak_{phase}_gib": phases[phase] / 2**30 for phase in report.SHOWN_PHASES if phases.get(phase)},
        )

    def _summary(self) -> report.Summary:
        peaks = self.step.peaks
        return report.Summary(
            rank=rank(),
            phases={phase: size for phase, size in peaks.run.items() if size},
            reserved=peaks.highest_reserved,
            mean=self._peaks_of_run.mean,
            std=self._peaks_of_run.std,
            share=self._share_of_run.mean,
            events=tuple(self.step.history.events),
            recomputed_ms=self._ms_of_run.mean if self._ms_of_run.count else None,
            smaller_steps=self.step.history.smaller_steps,
        )
