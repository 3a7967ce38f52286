# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each `Conv` keeps during a run: from the memory that is free, the setting and the batch to a plan, and to a tighter one when it fails.

Nothing here communicates. Ranks may follow different plans: recomputation changes no number, and micro-batches only batch norm's statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from yolov12.engine import fit, plan_table
from yolov12.engine.known import Known, Shape
from yolov12.engine.layers import names_of
from yolov12.engine.measure import Clock, CudaClock, FirstSteps
from yolov12.engine.on_shapes import trace
from yolov12.engine.profile import choices
from yolov12.log import say, warn
from yolov12.memory import budget
from yolov12.memory.history import History
from yolov12.memory.peaks import Peaks
from yolov12.memory.plan import Plan, choose, everything
from yolov12.model import fused
from yolov12.model.fused.norm import kernels_missing
from yolov12.model.fused.trace import Trace
from yolov12.settings import Settings

TIGHTER = 0.85
"""After running out of memory the next plan is made for this share of what the last one was expected to need."""
CALM_STEPS = 200
"""After that many steps without trouble a plan that memory enforced may grow back; after a step that failed, twice as many."""
MOST_CALM_STEPS = 16 * CALM_STEPS
"""It doubles with each step that fails, up to this: a plan that looks as if it fitted and does not costs few steps."""
GROWTH = 1.10
"""By how much the budget must exceed what the plan needs before the plan is loosened: plans must not flutter."""
MOST_LEARNED = 4
"""How often a plan is measured: the one that began, the one made from that, and more where that did not fit."""
TOO_MUCH = "memory: that is more than there is, with everything computed again and one image at a time; the step is tried all the same"


class Recomputation:
    """Plans for one model on one device.

    Args:
        model: unwrapped; its `Conv`s are told what to keep.
        device: where it trains.
        dtype: that its convolutions compute in.
        current: settings, of which `checkpoint`, `mem_safety_ratio` and `disable_mas_layers` are read.
        read_memory: what to ask instead of the device (memory/card.py); None asks the device.
        history: where changes of the plan are noted.
        most_boxes: of one image, which bounds the memory of the loss.
        cache: folder for what was measured; None keeps and finds nothing.
        clock: measures; None takes the GPU's own, and measures nothing on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        current: Settings,
        read_memory: Callable[[torch.device], budget.Memory] | None = None,
        history: History | None = None,
        most_boxes: int = 0,
        cache: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.safety_ratio = current.mem_safety_ratio
        self.left_alone = names_of(model, current.disable_mas_layers)
        self.mode, self.reason = mode_for(current.checkpoint, device, read_memory is not None)
        self.is_counted = read_memory is not None or device.type == "cuda"
        """Whether anybody counts the device's memory."""
        self.read_memory = read_memory or budget.read
        self.history = history or History()
        self.most_boxes, self.cache = most_boxes, cache
        self.clock = clock or (CudaClock() if device.type == "cuda" else None)
        self.shape: Shape | None = None
        self._last_traced: tuple[Shape, Trace | None] | None = None
        self.known: Known | None = None
        """Of steps of that shape."""
        self.first_steps: FirstSteps | None = None
        """Those that are being measured; None when that is done."""
        self.times_learned = 0
        """Of steps of this shape."""
        self.is_largest = True
        """Whether the step that runs has as many pixels as were planned for."""
        self.grown_bytes = 0
        """In use before the step beyond what was when the plan was made: the optimizer's state, gradients put aside."""
        self.plan: Plan | None = None
        self.ceiling: int | None = None
        """Set after running out of memory: more than this was too much."""
        self.calm_steps = 0
        """Without trouble, until now."""
        self.patience = CALM_STEPS
        """So many of them before the plan may grow back."""
        self._failed_after: int | None = None
        """Committed steps before the last one that ran out of memory."""
        self.budget_bytes: int | None = None
        """What a step might use when memory was last looked at."""
        say(f"memory: {self.reason}")
        if self.mode == "off":
            fused.choose({})

    def before(self, shape: Shape) -> int:
        """Look at the memory that is free and change the plan if it must be, or may. Called before each step; waits for nothing.

        Args:
            shape: of this rank's batch, (images, channels, height, width).

        Returns:
            Into how many micro-batches the batch is cut.
        """
        if self.mode == "off":
            return 1
        self.is_largest = self.shape is None or _pixels(shape) >= _pixels(self.shape)
        if self.shape is None or _pixels(shape) > _pixels(self.shape):  # smaller ones fit too
            self._follow(shape)
        elif self.mode == "planned":
            self._look()
        return 1 if self.plan is None else self.plan.parts

    @contextmanager
    def watched(self, measured: Peaks, parts: int) -> Iterator[None]:
        """Around one attempt at a step in so many micro-batches, after `before`: the first ones are measured."""
        steps, plan = self.first_steps, self.plan
        as_planned = plan is not None and parts == plan.parts and self.is_largest
        if steps is None or not steps.wants_more or not as_planned:
            yield
            return
        with steps.watch():
            yield
        steps.note(measured.closed(), self.grown_bytes)

    def fits_now(self) -> bool:
        """Whether the device has what the plan needs. Running out of memory was then the matter of a moment, say of a neighbour's peak."""
        if self.mode != "planned" or self.known is None or self.plan is None:
            return False
        return self.plan.peak_bytes <= self._available()

    def tighten(self) -> str | None:
        """After running out of memory: a plan that needs less, as `old -> new`; None if there is none."""
        if self.mode != "planned" or self.known is None or self.plan is None:
            return None
        if self.history.steps != self._failed_after:  # else it is the same step, which failed under a tighter plan too
            self.patience = min(2 * self.patience, MOST_CALM_STEPS)
        self.calm_steps, self._failed_after = 0, self.history.steps
        self.ceiling = int(TIGHTER * self.plan.peak_bytes)
        tighter = self._choose(self.ceiling)
        if not tighter.fits:
            return None
        change = f"recompute {self._words(self.plan)} -> {self._words(tighter)}"
        self.history.note("plan", f"{change}, after running out of memory")
        self._take(tighter)
        return change

    @property
    def is_measuring(self) -> bool:
        """Whether steps of the largest shape are being measured."""
        return self.first_steps is not None and self.first_steps.wants_more

    def no_room(self, times: float) -> str | None:
        """Why so many times the memory of a step is not there with everything kept; None if it is."""
        if self.mode != "planned" or self.known is None or self.plan is None:
            return "no plan says what a step needs"
        if self.plan.dropped or self.plan.parts > 1:
            return "memory is short already"
        available = self._available()
        if times * self.plan.peak_bytes <= available:
            return None
        return f"{available / 2**30:.1f} GiB are less than {times:g} times the {self.plan.peak_bytes / 2**30:.1f} that a step needs"

    def close(self) -> None:
        """After the run: convolutions are upstream's again."""
        fused.choose({})

    def _follow(self, shape: Shape) -> None:
        """A plan for images of another shape."""
        found = self._traced(shape)
        if found is None:
            self.mode, self.first_steps = "off", None
            fused.choose({})
            return
        memory = self.read_memory(self.device) if self.mode == "planned" else None
        self.shape, self.grown_bytes, self.times_learned = shape, 0, 0
        self.known = Known(
            self.model,
            found,
            shape,
            self.device,
            self.dtype,
            fixed_bytes=memory.allocated if memory else 0,
            left_alone=self.left_alone,
            most_boxes=self.most_boxes,
            cache=self.cache if memory else None,
        )
        if memory is None:
            self._take(everything(self.known.profile))
            return
        available = self.budget_bytes = memory.budget(self.safety_ratio)
        self._take(self._choose(available))
        self._show(available)
        self._measure_again()

    def why_not_one_image(self, shape: Shape) -> str | None:
        """Why not even one image of that batch can be trained on, with what would fit; None if it can, or if that is not known."""
        is_known = self.mode == "planned" or (self.mode == "all" and self.is_counted)
        found = self._traced(shape) if is_known else None
        if found is None:
            return None
        memory = self.read_memory(self.device)
        by_kernels = kernels_missing(self.device) is None
        return fit.why_not_one(self.model, found, shape[2:], self.dtype, memory, self.left_alone, by_kernels)

    def _traced(self, shape: Shape) -> Trace | None:
        """The model's forward on images of that shape; None, and said, if it does not run on shapes alone."""
        if self._last_traced is None or self._last_traced[0] != shape:
            try:
                self._last_traced = shape, trace(self.model, shape, self.dtype)
            except Exception as error:  # noqa: BLE001  # whatever a layer of the user's does on shapes alone, training goes on
                words = f"{type(error).__name__}: {error}"[:300]
                warn(f"memory: no plan, everything is kept: the model does not run on shapes alone ({words})")
                self._last_traced = shape, None
        return self._last_traced[1]

    def _look(self) -> None:
        """Before a step of a known shape: what was measured, and whether a neighbour on the device grew or is gone."""
        assert self.known is not None
        assert self.plan is not None
        available = self._available()
        if self.first_steps is not None and self.first_steps.can_be_read:
            self._learn(self.first_steps, available)
        self.calm_steps += 1
        free = f"{available / 2**30:.2f} GiB are free for a step now"
        if available < self.plan.peak_bytes and self.plan.fits:
            if self._change(self._choose(available), free):
                self.times_learned = 1
                self._measure_again()
        elif (
            self.calm_steps >= self.patience
            and (self.plan.dropped or self.plan.parts > 1)
            and available > GROWTH * self.plan.peak_bytes
        ):
            self.calm_steps, self.ceiling = 0, None
            self._change(self._choose(available), free)

    def _learn(self, steps: FirstSteps, available: int) -> None:
        """The plan made anew with what its first steps measured."""
        assert self.known is not None
        assert self.plan is not None
        before, self.first_steps = self._words(self.plan), None
        found = self.known.learn(steps, self.plan)
        if found is None:
            warn("memory: the first steps ran other convolutions than the model on shapes: costs stay estimated")
            return
        self.plan = replace(self.plan, peak_bytes=found.needed_bytes)
        self.times_learned += 1
        reason = f"the first steps measured {found.needed_bytes / 2**30:.2f} GiB ({100 * found.change:+.1f} % of what was expected)"
        # Once for what there is to gain; after that only for what does not fit, or two plans could take turns.
        is_worth_it = found.is_news and self.times_learned == 1
        if (is_worth_it or found.needed_bytes > available) and self._change(self._choose(available), reason, before):
            self._show(available)
            if (
                self.times_learned < MOST_LEARNED
            ):  # what one plan needs beyond the estimate is not quite what another does
                self._measure_again()
        else:
            say(f"memory: {reason}; the plan stays")

    def _choose(self, available: int) -> Plan:
        assert self.known is not None
        within = available if self.ceiling is None else min(available, self.ceiling)
        return choose(self.known.profile, within, most_parts=self.known.shape[0])

    def _change(self, new: Plan, reason: str, before: str | None = None) -> bool:
        """Take another plan and say so; False if it is the same."""
        assert self.plan is not None
        if (new.dropped, new.parts) == (self.plan.dropped, self.plan.parts):
            if self.plan.fits and not new.fits:
                warn(TOO_MUCH)
            self.plan = new  # else each step would look for a better one
            return False
        change = f"{reason}; recompute {before or self._words(self.plan)} -> {self._words(new)}"
        say(f"memory: {change}")
        self.history.note("plan", change)
        self._take(new)
        return True

    def _words(self, plan: Plan) -> str:
        assert self.known is not None
        return plan.words(self.known.profile)

    def _show(self, available: int) -> None:
        """The plan as a table."""
        assert self.known is not None
        assert self.plan is not None
        said = [plan_table.headline(self.known, self.plan, available)]
        said += plan_table.lines(self.model, self.known, self.plan)
        say("\n".join(f"memory: {line}" for line in said))

    def _measure_again(self) -> None:
        """The steps that come are the first ones, of this shape or under this plan."""
        if self.clock is not None and self.known is not None:
            self.first_steps = FirstSteps(self.known.calls, self.clock)

    def _available(self) -> int:
        """For a step as the profile sees it. Gradients that were put aside came after the plan was made."""
        assert self.known is not None
        memory = self.read_memory(self.device)
        self.budget_bytes = memory.budget(self.safety_ratio)
        self.grown_bytes = max(memory.allocated - self.known.fixed_bytes, 0)
        return self.budget_bytes - self.grown_bytes

    def _take(self, plan: Plan) -> None:
        assert self.known is not None
        if plan.parts > 1 and (self.plan is None or self.plan.parts == 1):
            say(
                "memory: batch normalisation sees parts of the batch: its statistics differ slightly from the whole batch's"
            )
        if not plan.fits:
            warn(TOO_MUCH)
        self.plan = plan
        fused.choose(choices(self.model, self.known.profile, plan.dropped))
        if self.first_steps is not None:  # what they saw so far was another plan's
            self._measure_again()


def mode_for(checkpoint: str, device: torch.device, has_card: bool = False) -> tuple[str, str]:
    """("off", "planned" or "all") and the reason.

    Args:
        checkpoint: the setting: "1", "0" or "all".
        has_card: whether memory is read elsewhere than from the device.
    """
    if checkpoint == "0":
        return "off", "recomputation is off (checkpoint=0): upstream's modules keep what they keep"
    if checkpoint == "all":
        return "all", "everything that can be is computed again in backward (checkpoint=all)"
    if has_card:
        return "planned", "recomputation as far as it is needed on the card that this run was given"
    if device.type != "cuda":
        return "off", f"no plan on {device.type}: its memory is not measured; checkpoint=all recomputes everywhere"
    if kernels_missing(device):  # which says why
        return "planned", "recomputation as far as it is needed, with torch's own batch norm"
    return "planned", "recomputation as far as it is needed"


def _pixels(shape: Shape) -> int:
    return shape[0] * shape[2] * shape[3]
