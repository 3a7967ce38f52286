# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each `Conv` keeps during a run: from the memory that is free, the setting and the batch to a plan, and to a tighter one when it fails.

Nothing here communicates. Ranks may follow different plans: recomputation changes no number, and micro-batches only batch norm's statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from yolov12.engine.layers import names_of
from yolov12.engine.profile import choices, profile
from yolov12.log import say, warn
from yolov12.memory import budget
from yolov12.memory.history import History
from yolov12.memory.plan import Plan, Profile, choose, everything
from yolov12.model import fused
from yolov12.model.fused.norm import kernels_missing
from yolov12.model.fused.trace import trace
from yolov12.settings import Settings

TIGHTER = 0.85
"""After running out of memory the next plan is made for this share of what the last one was expected to need."""
CALM_STEPS = 200
"""After that many steps without trouble a plan that was tightened may grow back."""
GROWTH = 1.10
"""By how much the budget must exceed what the plan needs, and what there was when a step failed, before the plan is loosened: plans must not
flutter."""

Shape = tuple[int, int, int, int]


class Recomputation:
    """Plans for one model on one device.

    Args:
        model: unwrapped; its `Conv`s are told what to keep.
        device: where it trains.
        dtype: that its convolutions compute in.
        current: settings, of which `checkpoint`, `mem_safety_ratio` and `disable_mas_layers` are read.
        read_memory: of the device; for tests.
        history: where changes of the plan are noted.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        current: Settings,
        read_memory: Callable[[torch.device], budget.Memory] = budget.read,
        history: History | None = None,
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.safety_ratio = current.mem_safety_ratio
        self.left_alone = names_of(model, current.disable_mas_layers)
        self.mode, self.reason = mode_for(current.checkpoint, device, getattr(model, "gradient_checkpointing", False))
        self.read_memory = read_memory
        self.history = history or History()
        self.shape: Shape | None = None
        self.profile: Profile | None = None
        self.plan: Plan | None = None
        self.ceiling: int | None = None
        """Set after running out of memory: more than this was too much."""
        self.failed_at = 0
        """What was free for a step when one last ran out of memory."""
        self.calm_steps = 0
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
        if self.shape is None or _pixels(shape) > _pixels(self.shape):  # smaller ones fit too
            self._follow(shape)
        elif self.mode == "planned":
            self._adjust()
        return 1 if self.plan is None else self.plan.parts

    def fits_now(self) -> bool:
        """Whether the device has what the plan needs. Running out of memory was then the matter of a moment, say of a neighbour's peak."""
        if self.mode != "planned" or self.profile is None or self.plan is None:
            return False
        return self.plan.peak_bytes <= self._available()

    def tighten(self) -> str | None:
        """After running out of memory: a plan that needs less, as `old -> new`; None if there is none."""
        if self.mode != "planned" or self.profile is None or self.plan is None or self.shape is None:
            return None
        self.calm_steps = 0
        self.failed_at = max(self.failed_at, self.read_memory(self.device).budget(self.safety_ratio))
        self.ceiling = int(TIGHTER * self.plan.peak_bytes)
        tighter = choose(self.profile, self.ceiling, most_parts=self.shape[0])
        if not tighter.fits:
            return None
        before = self.plan
        change = f"recompute {_described(before, self.profile)} -> {_described(tighter, self.profile)}"
        self.history.note("plan", f"{change}, after running out of memory")
        self._take(tighter)
        return change

    def close(self) -> None:
        """After the run: convolutions are upstream's again."""
        fused.choose({})

    def _follow(self, shape: Shape) -> None:
        """A plan for images of another shape."""
        try:
            found = trace(self.model, shape, self.dtype)
        except Exception as error:  # noqa: BLE001  # whatever a layer of the user's does on shapes alone, training goes on
            warn(
                f"memory: no plan, everything is kept: the model does not run on shapes alone ({type(error).__name__}: {error})"[
                    :400
                ]
            )
            self.mode = "off"
            fused.choose({})
            return
        self.shape = shape
        memory = self.read_memory(self.device) if self.mode == "planned" else None
        fixed = memory.allocated if memory else 0
        self.profile = profile(found, fixed, self.left_alone)
        if memory is None:
            self._take(everything(self.profile))
            return
        available = memory.budget(self.safety_ratio)
        plan = choose(
            self.profile, available if self.ceiling is None else min(available, self.ceiling), most_parts=shape[0]
        )
        say(f"memory: batch {shape[0]} at {shape[2]}x{shape[3]} {plan.reason(self.profile, available)}")
        self._take(plan)
        if not plan.fits:
            warn("memory: that is more than there is for a single image; the step is tried all the same")

    def _adjust(self) -> None:
        """A neighbour on the device grew, or is gone."""
        assert self.profile is not None
        assert self.plan is not None
        assert self.shape is not None
        available = self._available()
        self.calm_steps += 1
        if available < self.plan.peak_bytes and self.plan.fits:
            new = choose(self.profile, available, most_parts=self.shape[0])
        elif (
            self.calm_steps >= CALM_STEPS
            and (self.plan.dropped or self.plan.parts > 1)
            and available > GROWTH * max(self.plan.peak_bytes, self.failed_at)
        ):
            self.calm_steps, self.ceiling = 0, None
            new = choose(self.profile, available, most_parts=self.shape[0])
        else:
            return
        if (new.dropped, new.parts) != (self.plan.dropped, self.plan.parts):
            change = (
                f"{available / 2**30:.2f} GiB are free for a step now; recompute "
                f"{_described(self.plan, self.profile)} -> {_described(new, self.profile)}"
            )
            say(f"memory: {change}")
            self.history.note("plan", change)
            self._take(new)

    def _available(self) -> int:
        """For a step as the profile sees it. Gradients that were put aside came after the plan was made."""
        assert self.profile is not None
        memory = self.read_memory(self.device)
        return memory.budget(self.safety_ratio) - max(memory.allocated - self.profile.fixed_bytes, 0)

    def _take(self, plan: Plan) -> None:
        assert self.profile is not None
        if plan.parts > 1 and (self.plan is None or self.plan.parts == 1):
            say(
                "memory: batch normalisation sees parts of the batch: its statistics differ slightly from the whole batch's"
            )
        self.plan = plan
        fused.choose(choices(self.model, self.profile, plan.dropped))


def mode_for(checkpoint: str, device: torch.device, asked_by_attribute: bool = False) -> tuple[str, str]:
    """("off", "planned" or "all") and the reason.

    Args:
        checkpoint: the setting: "1", "0" or "all".
        asked_by_attribute: whether a script set `model.model.gradient_checkpointing = True`.
    """
    if checkpoint == "0":
        return "off", "recomputation is off (checkpoint=0): upstream's modules keep what they keep"
    if checkpoint == "all" or asked_by_attribute:
        by = "gradient_checkpointing=True" if asked_by_attribute else "checkpoint=all"
        return "all", f"everything that can be is computed again in backward ({by})"
    if device.type != "cuda":
        return "off", f"no plan on {device.type}: its memory is not measured; checkpoint=all recomputes everywhere"
    if kernels_missing(device):  # which says why
        return "planned", "recomputation as far as it is needed, with torch's own batch norm"
    return "planned", "recomputation as far as it is needed"


def _pixels(shape: Shape) -> int:
    return shape[0] * shape[2] * shape[3]


def _described(plan: Plan, known: Profile) -> str:
    inputs = sum(known.blocks[i].is_input for i in plan.dropped)
    parts = f" in {plan.parts} micro-batches" if plan.parts > 1 else ""
    return f"{len(plan.dropped) - inputs} convolutions and {inputs} inputs{parts} ({plan.peak_bytes / 2**30:.2f} GiB)"
