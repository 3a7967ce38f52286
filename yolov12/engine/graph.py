# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forward, loss and backward as one CUDA graph: the GPU runs the step's 1,700 kernels from one launch instead of waiting for Python between them.

A step is captured once it has run a few times as it is, and kept only if it is measurably faster. Training never waits for that: capturing takes a
fraction of a second, and whatever does not fit the graph (another shape, more objects than it has room for) runs as before. What is captured are
the same kernels on the same memory, so the numbers are the same. The last batch of an epoch, which is smaller, gets a graph of its own in the
same memory, since only one of the two runs at a time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from yolov12.engine.attempt import Attempt, Batch
from yolov12.engine.capture import capturing, first_cause
from yolov12.engine.replays import foreign_layer
from yolov12.log import say, say_once
from yolov12.memory.failure import drop_when_short, is_out_of_memory
from yolov12.memory.micro_batch import TARGET_KEYS
from yolov12.model.hooks import is_heard_in_training
from yolov12.model.loss import kernels, levels

EAGER_STEPS = 8
"""Steps of one kind before it is captured: kernels are chosen, and the memory plan is settled."""
TIMED_STEPS = 5
"""Of each kind, whose shortest is compared: the first after a change pays for it."""
LEAST_GAIN = 1.0
"""How much faster the graph must be to stay. As fast is enough: it also leaves Python to the loader's threads, and there was room for its memory."""
LEAST_OBJECTS = 256
SPARE_OBJECTS = 2
"""How many times the objects that were seen the graph has room for."""
GAINS = ("box", "cls", "dfl")
"""Of the loss; the kernels take them as numbers (model/loss/kernels.py)."""

_LEARNS, _TRAINS = attrgetter("requires_grad"), attrgetter("training")
Run = Callable[[Batch], Attempt]
Kind = tuple[tuple[int, ...], torch.dtype, Hashable]
"""Shape of the images, their type, and what else the kernels depend on."""


def why_not(model: nn.Module, device: torch.device, wanted: str) -> str | None:
    """Why a step is not captured; None if it can be.

    Args:
        model: unwrapped, with its criterion.
        device: where it trains.
        wanted: the setting `compile`.
    """
    if device.type != "cuda":
        return f"it is for GPUs, and this is {device.type}"
    if wanted != "auto":
        return f"compile={wanted}"
    if (foreign := foreign_layer(model)) is not None:
        return foreign
    if any(map(is_heard_in_training, model.modules())):
        return "the model has hooks"
    layers: Any = model.model
    if not levels.is_plain(layers[-1]) or not kernels.serves_criterion(getattr(model, "criterion", None), device):
        return "the loss does not run by our kernels alone"
    return None


@dataclass
class Clock:
    """Milliseconds on the GPU's own clock, read when they are ready and not before."""

    pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def run(self, what: Callable[[], Any]) -> Any:
        """Call it, timed while few enough have been."""
        if len(self.pairs) >= TIMED_STEPS:
            return what()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = what()
        end.record()
        self.pairs.append((begin, end))
        return result

    def shortest_ms(self) -> float | None:
        """Of all that were timed; None while they are too few or still run."""
        if len(self.pairs) < TIMED_STEPS or not all(end.query() for _, end in self.pairs):
            return None
        return min(begin.elapsed_time(end) for begin, end in self.pairs)


@dataclass
class Captured:
    """A graph, with the memory that it reads and writes."""

    kind: Kind
    graph: torch.cuda.CUDAGraph
    batch: Batch
    attempt: Attempt
    parameters: list[nn.Parameter]
    gradients: list[Tensor]

    def has_room_for(self, batch: Batch) -> bool:
        return len(batch["batch_idx"]) <= len(self.batch["batch_idx"])

    def replay(self, batch: Batch) -> Attempt:
        """As the captured function on this batch: gradients are in the parameters, lent until the next replay writes into the same memory."""
        fill(self.batch, batch)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.attempt.copied()


def room_for(batch: Batch, objects: int) -> Batch:
    """A batch of the same images with rows for so many objects; those that are not used belong to image -1."""
    made = {key: value.new_full((objects, *value.shape[1:]), -1) for key in TARGET_KEYS for value in (batch[key],)}
    made["img"] = torch.empty_like(batch["img"])
    fill(made, batch)
    return made


def fill(held: Batch, batch: Batch) -> None:
    """Copy a batch into one made by `room_for`."""
    held["img"].copy_(batch["img"], non_blocking=True)
    held["batch_idx"].fill_(-1)
    rows = [held[key][: len(batch[key])] for key in TARGET_KEYS]
    torch._foreach_copy_(rows, [batch[key] for key in TARGET_KEYS], non_blocking=True)


class StepGraph:
    """Runs a part of a batch as a graph where that is faster.

    Args:
        model: unwrapped; its parameters get the gradients.
        wanted: the setting `compile`.
        undisturbed: within what it gives, no other thread uses the GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: str = "auto",
        undisturbed: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.wanted, self.undisturbed = model, wanted, undisturbed
        self._parameters, self._modules = list(model.parameters()), list(model.modules())
        self.device = self._parameters[0].device
        self.is_off = self.device.type != "cuda" or wanted != "auto"
        self.captured: Captured | None = None
        self.smaller: Captured | None = None
        """Of a batch with fewer images, in the memory of the other."""
        self._why_no_smaller: str | None = None
        self._seen: Counter[Kind] = Counter()
        self._most_objects = 0
        self._eager: dict[Kind, Clock] = defaultdict(Clock)
        self._replayed: dict[Kind, Clock] = defaultdict(Clock)
        self._is_judged = False
        drop_when_short(self)

    def run(self, batch: Batch, plan: Hashable, no_room: str | None, attempt: Run) -> Attempt:
        """What `attempt(batch)` returns, by whichever way.

        Args:
            batch: the whole, on the device.
            plan: what else the kernels depend on; another one is another kind of step.
            no_room: why there is no memory for a graph, if there is none.
            attempt: forward, loss and backward.

        Returns:
            One that `lends_gradients` if a graph made it: those in the parameters are to be copied if they are needed after the next call.
        """
        if self.is_off:
            return attempt(batch)
        if no_room is not None:
            self.drop()
            say_once(f"no graph {no_room}", f"step: no CUDA graph: {no_room}")
            return attempt(batch)
        kind: Kind = (tuple(batch["img"].shape), batch["img"].dtype, (plan, self._what_learns()))
        if self.captured is not None and self.captured.kind[-1] != kind[-1]:
            self.drop()
        self._most_objects = max(self._most_objects, len(batch["batch_idx"]))
        found = self._of(kind)
        if found is None and self._seen[kind] >= EAGER_STEPS:
            if self.captured is None:
                self._capture(kind, batch, attempt)
            elif self._is_last_of_epoch(kind):
                self._capture_smaller(kind, batch, attempt)
            found = self._of(kind)
        if found is not None and not found.has_room_for(batch):
            self.drop()  # more objects than ever: it is captured anew, with more room
        elif found is not None and found is self.captured:
            result = self._replayed[kind].run(lambda: found.replay(batch))
            self._judge(kind)
            return result
        elif found is not None:
            return found.replay(batch)
        chooses_kernels = self._seen[kind] < EAGER_STEPS - TIMED_STEPS
        result = attempt(batch) if chooses_kernels else self._eager[kind].run(lambda: attempt(batch))
        self._seen[kind] += 1  # not of one that failed, which was not timed either
        return result

    def drop(self) -> None:
        """Forget the graphs and give their memory back."""
        if self.captured is None:
            return
        self.captured = self.smaller = None
        torch.cuda.empty_cache()

    def look(self) -> None:
        """Before an epoch: a script's hooks, or a layer of its own, that came after the graph would not be called by its replays."""
        if self.captured is not None and (reason := why_not(self.model, self.device, self.wanted)) is not None:
            self._turn_off(reason)

    def _what_learns(self) -> Hashable:
        """What a script may change in the middle of a run: which parameters get a gradient, which layers are in training, the gains of the loss."""
        hyp = getattr(getattr(self.model, "criterion", None), "hyp", None)
        frozen = bytes(map(_LEARNS, self._parameters)) + bytes(map(_TRAINS, self._modules))
        return frozen, tuple(getattr(hyp, gain, None) for gain in GAINS)

    def _of(self, kind: Kind) -> Captured | None:
        return next((one for one in (self.captured, self.smaller) if one is not None and one.kind == kind), None)

    def _is_last_of_epoch(self, kind: Kind) -> bool:
        """Whether it is as the one that is captured, and that is kept, but for having fewer images."""
        if self.captured is None or self.smaller is not None or self._why_no_smaller is not None or not self._is_judged:
            return False
        shape, large = kind[0], self.captured.kind[0]
        return kind[1:] == self.captured.kind[1:] and shape[1:] == large[1:] and shape[0] < large[0]

    def _capture_smaller(self, kind: Kind, batch: Batch, attempt: Run) -> None:
        assert self.captured is not None
        try:
            self.smaller = self._captured(kind, batch, attempt, self.captured.graph.pool())
        except Exception as error:  # noqa: BLE001  # as below
            self._why_no_smaller = _short(error)
            say(f"step: no CUDA graph for the last batch of an epoch: it can not be captured ({self._why_no_smaller})")
        finally:
            self._forget_gradients()

    def _forget_gradients(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def _capture(self, kind: Kind, batch: Batch, attempt: Run) -> None:
        reason = why_not(self.model, self.device, self.wanted)
        if reason is None:
            # Else the graph's memory would come on top of what the steps before it left in the allocator's hands.
            torch.cuda.empty_cache()
            try:
                self.captured = self._captured(kind, batch, attempt)
                return
            except Exception as error:  # noqa: BLE001  # whatever can not be captured, training goes on without
                self.captured = None
                reason = f"it can not be captured ({_short(error)})"
            finally:
                self._forget_gradients()
        self._turn_off(reason)

    def _captured(self, kind: Kind, batch: Batch, attempt: Run, pool: Any = None) -> Captured:
        held = room_for(batch, max(LEAST_OBJECTS, SPARE_OBJECTS * self._most_objects))
        graph = torch.cuda.CUDAGraph()
        with self.undisturbed(), capturing(graph, pool):
            made = attempt(held)
        with_gradient = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
        return Captured(kind, graph, held, made, with_gradient, gradients)

    def _judge(self, kind: Kind) -> None:
        """Once both ways have been timed for this kind: keep the graph, or not."""
        if self._is_judged:
            return
        eager_ms, graph_ms = self._eager[kind].shortest_ms(), self._replayed[kind].shortest_ms()
        if eager_ms is None or graph_ms is None:
            return
        self._is_judged = True
        if eager_ms >= LEAST_GAIN * graph_ms:
            say(
                f"step: runs as a CUDA graph: {graph_ms:.1f} ms instead of {eager_ms:.1f} ms for forward, loss and backward"
            )
        else:
            self._turn_off(
                f"{graph_ms:.1f} ms instead of {eager_ms:.1f} ms for forward, loss and backward is not worth its memory"
            )

    def _turn_off(self, reason: str) -> None:
        self.is_off = True
        self.drop()
        say(f"step: no CUDA graph: {reason}")


def _short(error: Exception) -> str:
    cause = first_cause(error)
    return ("out of memory" if is_out_of_memory(cause) else f"{type(cause).__name__}: {cause}".splitlines()[0])[:200]
