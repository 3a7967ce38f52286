# SPDX-License-Identifier: AGPL-3.0-or-later
"""The health of a run on several ranks: every ten steps they compare what must be equal, and how long a step took each.

The comparison reads the GPU one step later, when the numbers are there, so that no step waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yolov12.distributed import patience, pulse
from yolov12.distributed.agree import Digests, Fingerprints, first_difference
from yolov12.distributed.flat import FlatBuffers
from yolov12.distributed.stragglers import Stragglers
from yolov12.distributed.sync_bn import SyncedBatchNorm2d
from yolov12.engine.attempt import StepResult
from yolov12.engine.own_time import OwnTime
from yolov12.engine.step import Step
from yolov12.errors import RetryableError
from yolov12.log import say

EVERY_STEPS = 10


@dataclass(frozen=True)
class _Report:
    """What one rank says in a check."""

    digests: Digests
    first_bad_step: int
    """Of this rank's loss; 0 while all were finite."""
    own_ms: float


class Health:
    """Watches one run.

    Args:
        step: the run's.
        optimizer: whose state is compared.
        resume: what to type to go on after the run was ended.
    """

    def __init__(self, step: Step, optimizer: Optimizer, resume: str) -> None:
        self.step, self.optimizer, self.resume = step, optimizer, resume
        self.group = step.vote_group
        self.steps = 0
        self.lost = ""
        """Why the weights are not finite any more, as all ranks know it; "" while they are."""
        self._names = {parameter: name for name, parameter in step.model.named_parameters()}
        self._fingerprints: Fingerprints | None = None
        self._of_statistics: Fingerprints | None = None
        self._stragglers = Stragglers()
        self._first_bad: Tensor | None = None
        self._pending: tuple[list[str], Tensor, Any] | None = None
        alone = self.group is None  # nobody asks then
        self.own_time = OwnTime(torch.device("cpu") if alone else step.parameters[0].device, lambda: step.waited_s)
        step.after_backward = self.own_time.after_backward

    def begin_step(self) -> None:
        """A step begins; its number is what this rank's signs of life tell."""
        self.steps += 1
        pulse.at_step(self.steps)
        self.own_time.begin_step()

    def after_step(self, result: StepResult) -> None:
        """A step was committed, and its update was not made yet. Every rank must call it after every step.

        Raises:
            RetryableError: the ranks do not hold the same numbers any more.
        """
        if self.group is None:
            return
        if self._first_bad is None:
            self._first_bad = torch.zeros((), dtype=torch.int64, device=result.is_finite.device)
        is_first = ~result.is_finite & (self._first_bad == 0)
        self._first_bad = torch.where(is_first, self.steps, self._first_bad)
        if self._pending is not None:
            self._compare()
        if self.steps % EVERY_STEPS == 0:
            self._pending = self._begin()

    def forget(self) -> None:
        """The weights were loaded anew."""
        self._pending, self._first_bad, self.lost = None, None, ""

    def _begin(self) -> tuple[list[str], Tensor, Any]:
        """The names and digests of everything that must be equal, on their way to the host."""
        assert self.step.reducer is not None
        held = [(p, g) for p, g in zip(self.step.parameters, self.step.held, strict=True) if g is not None]
        gradients, room = [g for _, g in held], self.step.reducer.room
        if not room.fits(gradients):  # a layer was frozen since the last update
            room = FlatBuffers(gradients)
        if self._fingerprints is None or self._fingerprints.room is not room:
            self._fingerprints = Fingerprints(room)
        lists: list[tuple[str, list[nn.Parameter], list[Tensor]]] = [
            ("the weight", [p for p, _ in held], [p for p, _ in held]),
            ("the gradient of", [p for p, _ in held], gradients),
        ]
        state = self.optimizer.state
        for name in sorted({name for p, _ in held for name, value in state[p].items() if isinstance(value, Tensor)}):
            values = [state[p].get(name) for p, _ in held]
            if all(isinstance(v, Tensor) and v.shape == p.shape for v, (p, _) in zip(values, held, strict=True)):
                lists.append((f"{name} of", [p for p, _ in held], values))
        names = [f"{what} {self._names[p]}" for what, owners, _ in lists for p in owners]
        digests = [self._fingerprints.of(tensors) for _, _, tensors in lists]
        if buffers := _synchronised_statistics(self.step.model):
            names += [f"the buffer {name}" for name in buffers]
            values = list(buffers.values())
            if self._of_statistics is None or not self._of_statistics.room.fits(values):
                self._of_statistics = Fingerprints(FlatBuffers(values))
            digests.append(self._of_statistics.of(values))
        made = torch.cat(digests)
        assert self._first_bad is not None
        made = torch.cat([made, torch.stack([self._first_bad, self._first_bad])[None].double()])
        if not made.is_cuda:
            return names, made, None
        on_host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
        on_host.copy_(made, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return names, on_host, copied

    def _compare(self) -> None:
        assert self._pending is not None
        assert self.group is not None
        names, digests, copied = self._pending
        self._pending = None
        if copied is not None:
            with self.own_time.waiting_for_the_gpu():
                copied.synchronize()  # of the step before: it is there
        *rows, (bad, _) = [(float(product), float(norm)) for product, norm in digests.tolist()]
        reports: list[_Report] = patience.collect(_Report(rows, int(bad), self.own_time.read_ms()), self.group)
        self._look_for_lost_weights(names, reports)
        if not self.lost and (found := first_difference([report.digests for report in reports])):
            place, rank, distance = found
            raise RetryableError(
                f"rank {rank} and the others differ in {names[place]} at step {self.steps - 1}, by {distance:.1e} of its norm: the run can not "
                f"go on like this; {self.resume}"
            )
        if (line := self._stragglers.look([report.own_ms for report in reports])) is not None:
            say(line)

    def _look_for_lost_weights(self, names: list[str], reports: list[_Report]) -> None:
        bad = {rank: report.first_bad_step for rank, report in enumerate(reports) if report.first_bad_step}
        if not bad:
            return
        rank = min(bad, key=lambda rank: (bad[rank], rank))
        what = f"rank {rank}, step {bad[rank]}: its loss was not finite"
        weights = [i for i, name in enumerate(names) if name.startswith("the weight")]
        norms = [report.digests[i][1] for report in reports for i in weights]
        if all(norm < float("inf") for norm in norms):  # False for NaN, too
            say(f"WARNING {what}; the weights are finite on all ranks")
            self._first_bad = None
        else:
            self.lost = f"{what}, and now the weights are not finite either"


def _synchronised_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics that all ranks share."""
    return {
        f"{name}.{which}": value
        for name, norm in model.named_modules()
        if isinstance(norm, SyncedBatchNorm2d)
        for which, value in (("running_mean", norm.running_mean), ("running_var", norm.running_var))
        if value is not None
    }
