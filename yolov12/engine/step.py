# SPDX-License-Identifier: AGPL-3.0-or-later
"""One training step that either counts whole or not at all.

    attempt    every part of the batch runs forward, loss and backward; gradients gather in `.grad`, nothing is communicated
    vote       all ranks say on the CPU whether they made it
    commit     gradients and counts are summed over the ranks, divided once, and put aside for the update
    or retry   the attempt is dropped, random state and BN buffers are put back, and the same data runs again: first with more of it
               computed again in backward, then in smaller parts, and at the very last, if the user allows it, on smaller images

Loss sums and target counts are explained in loss_count.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from yolov12.data.order import GHOST
from yolov12.distributed import pulse
from yolov12.distributed.reduce import Reducer
from yolov12.distributed.sync_bn import counted, is_synchronised
from yolov12.distributed.vote import Wish, vote
from yolov12.engine.attempt import Attempt, Batch, StepResult, copies_of, fill_missing, loaded, put_aside
from yolov12.engine.graph import StepGraph
from yolov12.engine.last_resort import LastResort
from yolov12.engine.loss_count import Listener, Provisional
from yolov12.engine.phases import told_by
from yolov12.engine.rank_norms import RankNorms
from yolov12.engine.recompute import CALM_STEPS, Recomputation
from yolov12.engine.snapshot import Snapshot
from yolov12.errors import DeviceFullError, PeerFailedError, RetryableError
from yolov12.log import say, warn
from yolov12.memory.failure import WAITS_S, again, is_out_of_memory, one_line, release_memory
from yolov12.memory.history import History
from yolov12.memory.micro_batch import split
from yolov12.memory.peaks import BETWEEN, Peaks
from yolov12.memory.smaller_images import SmallerImages

ONE_IMAGE = "out of memory with one image at a time"
"""What a rank votes that can not go on; all ranks end with it."""
GRAPH_ROOM = 2.0
"""How many times a step's memory must fit for a graph: it keeps its own, and a batch of another shape runs without it."""
RARE_STEPS = 3
"""So many steps after the last failure a further one may be a matter of a moment, and costs little if it is not."""


class Step:
    """Runs batches through a model and keeps their gradients until the optimizer is due.

    Args:
        model: a detection model of ultralytics, unwrapped.
        forward_loss: runs the model on a batch and returns `(loss * images, items)`, as `model(batch)` does in ultralytics.
        autocast: makes the context of the forward pass and the loss.
        scale_loss: multiplies the loss before backward (fp16's GradScaler), identity otherwise.
        vote_group: CPU process group; None when this process is alone.
        recomputation: what the model keeps for backward, by the memory that is free; None leaves that alone.
        history: where repeated attempts are noted.
        smaller_images: the last resort (mas_data); None ends the run instead.
        explain_failure: called while what one image needed is still there and did not fit; what it returns stands in the error.
        graph: runs a batch that is not cut as a CUDA graph where that is faster; None never does.
        compresses: whether gradients travel between ranks as bf16 (distributed/compress.py).
        rank_norms: clips by the largest norm of a rank's own gradient; None leaves clipping to the update.
    """

    def __init__(
        self,
        model: nn.Module,
        forward_loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
        autocast: Callable[[], AbstractContextManager[Any]],
        scale_loss: Callable[[Tensor], Tensor],
        vote_group: torch.distributed.ProcessGroup | None = None,
        recomputation: Recomputation | None = None,
        history: History | None = None,
        smaller_images: SmallerImages | None = None,
        explain_failure: Callable[[], str] = str,
        graph: StepGraph | None = None,
        compresses: bool = False,
        rank_norms: RankNorms | None = None,
    ) -> None:
        self.model = model
        self.forward_loss = forward_loss
        self.autocast = autocast
        self.scale_loss = scale_loss
        self.vote_group = vote_group
        self.recomputation = recomputation
        self.history = history or History()
        self.explain_failure = explain_failure
        self._explained = ""
        self.peaks = Peaks.of(next(model.parameters()).device)
        self.last_resort = LastResort(smaller_images, self.history)
        self.graph = graph
        self.rank_norms = rank_norms
        self.waits_s = WAITS_S
        """How long it waits for a neighbour, each time that one image at a time does not fit."""
        self.micro_batches = 1
        """At least so many; the plan may ask for more."""
        self.after_backward: Callable[[], None] = lambda: None
        """Called when an attempt is made, before the vote on it."""
        self.waited_s = 0.0
        """For peers, in votes on attempts since the run began; with the time that a vote takes itself."""
        self._planned_parts = 1
        self._calm_steps = 0
        self._last_failure = -RARE_STEPS
        """Committed steps before this rank last ran out of memory."""
        self._is_synchronised = vote_group is not None and is_synchronised(model)
        self.parameters = list(model.parameters())
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        self.reducer = None if vote_group is None else Reducer(trained, compresses)
        self.held: list[Tensor | None] = [None] * len(self.parameters)
        """Gradients of the committed steps since the last update, one per parameter; None for frozen ones. Good until the next step begins."""
        self._put_lent_aside = False
        """Whether the last step put a graph's own ones there, which its next replay overwrites. Where each step has its update, none is copied."""
        self._before = Snapshot(model)
        self._divisor = Provisional(self.parameters[0].device, is_alone=vote_group is None)
        self._criterion = Listener(model)

    def run(self, batch: Batch, wish: Wish = Wish.GO_ON) -> StepResult:
        """Train on one batch and put its gradients aside. All ranks must call it equally often.

        Args:
            batch: this rank's images and boxes, on the device.
            wish: what this rank wants to happen next.

        Raises:
            RetryableError: a single image does not fit, or another rank failed for another reason than memory.
            DeviceFullError: out of memory with synchronised batch norm, where one process alone can not repeat a step.
        """
        self._before.take()
        waits_s = iter(self.waits_s)
        while True:
            attempt, error = self._attempt(batch)
            self.after_backward()
            if error is not None and self._is_synchronised:
                # The others wait inside their forward pass for this rank's statistics, where they hear no vote: this process must end.
                if not is_out_of_memory(error):
                    raise error
                raise DeviceFullError(
                    f"out of memory ({one_line(error)}), and a step with synchronised batch norm can not be repeated by one process alone; "
                    "use a smaller batch or imgsz, or train without sync_bn"
                )
            began_s = time.monotonic()
            verdict = vote(None if error is None else one_line(error), self.vote_group, wish)
            self.waited_s += time.monotonic() - began_s
            if verdict.all_succeeded:
                assert attempt is not None
                self.history.steps += 1
                self._grow_back()
                self.last_resort.step_done(batch)
                return self._commit(attempt, verdict.wish)
            self._drop()
            if error is not None and not is_out_of_memory(error):
                raise error
            if any(not is_out_of_memory(RuntimeError(reason)) for reason in verdict.reasons.values()):
                raise PeerFailedError(
                    f"training stopped because another process failed{pulse.where()}, {verdict.first()}"
                )
            failed_here = error is not None
            self.history.note("retry", verdict.first())
            del attempt, error
            self._before.restore()
            self._calm_steps = 0
            release_memory()
            # Ranks may follow different plans, so each tightens its own. Only where one can not, all cut their batch into smaller parts.
            images = len(batch["img"])
            can_not = None
            if failed_here and not self._was_momentary(verdict.first()) and not self._tighten(verdict.first()):
                if self._parts(images) < images:
                    can_not = "no tighter plan"
                elif not self._wait(waits_s) and not self.last_resort.take(batch, verdict.first()):
                    can_not = f"{ONE_IMAGE}{self._explained}"
            second = vote(can_not, self.vote_group)
            if hopeless := [reason for reason in second.reasons.values() if reason.startswith(ONE_IMAGE)]:
                raise RetryableError(
                    f"{ONE_IMAGE} ({verdict.first()}); {self.last_resort.advice()}{hopeless[0].removeprefix(ONE_IMAGE)}"
                )
            if not second.all_succeeded:
                self._use_smaller_parts(images, verdict.first())

    def take_gradients(self) -> None:
        """Hand the gradients put aside to the parameters, where the optimizer looks for them. All ranks must call it equally often."""
        if self.rank_norms is not None:
            self.rank_norms.clip([held for held in self.held if held is not None], self._loss_scale())
        for parameter, gradient in zip(self.parameters, self.held, strict=True):
            parameter.grad = gradient
        self.held = [None] * len(self.parameters)

    def kept(self) -> dict[str, Any]:
        """What a run that goes on elsewhere needs of the steps since the last update. The same on all ranks."""
        return {"held": self.held, **self._divisor.kept()}

    def go_on_from(self, kept: dict[str, Any]) -> None:
        """Put back what `kept` gave; the tensors may lie on another device."""
        self.held = loaded(kept["held"], self.parameters)
        self._divisor.go_on_from(kept)
        if self.rank_norms is not None:
            self.rank_norms.go_on_from(self.held)

    def forget(self) -> None:
        """Drop everything that was put aside, for example after NaN recovery reloaded the weights."""
        self._drop()
        self.held = [None] * len(self.parameters)
        self._divisor.forget()
        if self.reducer is not None:
            self.reducer.forget()
        if self.rank_norms is not None:
            self.rank_norms.forget()

    def _unit(self) -> Tensor:
        """Of which this step's gradients are multiples: the loss scale over the provisional divisor."""
        return self._loss_scale() / self._divisor.targets_per_image

    def _loss_scale(self) -> Tensor:
        return self.scale_loss(torch.ones_like(self._divisor.targets_per_image))

    def _attempt(self, batch: Batch) -> tuple[Attempt | None, Exception | None]:
        """Forward, loss and backward of all parts; the error instead if one fails. Communicates nothing."""
        self.peaks.begin_step()
        try:
            if self._put_lent_aside:
                self.held, self._put_lent_aside = copies_of(self.held), False
            if self.recomputation is not None:
                self._planned_parts = self.recomputation.before(self.last_resort.shape_of(batch))
            parts = [self.last_resort.of(part) for part in split(batch, self._parts(len(batch["img"])))]
            with nullcontext() if self.recomputation is None else self.recomputation.watched(self.peaks, len(parts)):
                attempt = self._attempt_in(parts)
            if self.reducer is not None:
                # Here and not after the vote, where running out of memory would leave the others alone in a collective.
                fill_missing(self.parameters)
                self.reducer.make_room([p.grad for p in self.parameters if p.grad is not None])
            return attempt, None
        except Exception as error:  # noqa: BLE001  # whatever it is, the other ranks must hear of it before this one leaves
            if is_out_of_memory(error):
                if self._parts(len(batch["img"])) >= len(batch["img"]):
                    self._explained = self.explain_failure()
                # The traceback holds the activations of the failed pass; without it they are free before the retry.
                error = error.with_traceback(None)
            return None, error
        finally:
            self.peaks.begin(BETWEEN)

    def _attempt_in(self, parts: list[Batch]) -> Attempt:
        """By a graph where there is one for it."""
        if len(parts) > 1:
            return self._counted_attempt(parts)
        # A graph would repeat what it was captured with, which counted.
        graph = None if GHOST in parts[0] else self.graph
        if graph is None or self.recomputation is None or self.recomputation.is_measuring:
            return self._whole_attempt(parts[0])
        no_room = self.recomputation.no_room(GRAPH_ROOM)
        return graph.run(parts[0], self.recomputation.plan, no_room, self._whole_attempt)

    def _whole_attempt(self, batch: Batch) -> Attempt:
        """The batch in one part."""
        return self._plain_attempt(batch) if self.vote_group is None else self._counted_attempt([batch])

    def _plain_attempt(self, batch: Batch) -> Attempt:
        """The whole batch at once, alone: ultralytics' own loss is already that of the whole."""
        with self._forward():
            loss, items = self.forward_loss(batch)
            loss = loss.sum()
        self._backward(loss)
        return Attempt(loss.detach(), items, counts=None)

    def _counted_attempt(self, parts: list[Batch]) -> Attempt:
        """Each part contributes its loss sum over a provisional divisor, the same on all ranks; `_commit` corrects it."""
        self._criterion.attend()
        counter = self._criterion.counter
        device = parts[0]["img"].device
        # A ghost only takes part (data/order.py): its images and objects weigh nothing.
        counts_not = GHOST in parts[0]
        images = 0 if counts_not else sum(len(part["img"]) for part in parts)
        loss_of_all = torch.zeros((), device=device)
        targets = torch.zeros((), device=device)
        summed_items: dict[str, Tensor] = {}
        for part in parts:
            with self._forward(), counted(not counts_not):
                loss, items = self.forward_loss(part)
                loss = loss.sum() * (0.0 if counts_not else self._divisor.factor(counter, len(part["img"])))
            self._backward(loss)
            # item = sum / divisor, so item * divisor adds up over parts; an uncounted criterion's items add up by images
            divisor = counter.divisor if counter else torch.full_like(targets, len(part["img"]))
            for name, item in items.items():
                summed_items[name] = summed_items.get(name, 0) + item * divisor
            loss_of_all += loss.detach()
            if not counts_not:
                targets += counter.count if counter else divisor
        counts = torch.stack([targets, torch.full_like(targets, images)])
        return Attempt(
            loss_of_all, {name: total / targets.clamp(min=1) for name, total in summed_items.items()}, counts
        )

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """Around forward and loss: autocast, and the phases of memory."""
        self.peaks.begin("forward")
        # Without a plan nobody asks where they end, and a hook would break torch.compile's graph.
        with nullcontext() if self.recomputation is None else told_by(self.model, self.peaks), self.autocast():
            yield

    def _backward(self, loss: Tensor) -> None:
        if self.peaks.phase == "forward":  # no head told of more
            self.peaks.begin("backward")
        self.scale_loss(loss).backward()

    def _commit(self, attempt: Attempt, wish: Wish) -> StepResult:
        """Sum over the ranks, divide once, and add to what is put aside."""
        present = [(i, parameter.grad) for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        gradients = [gradient for _, gradient in present]
        self._drop()
        loss = attempt.loss
        if attempt.counts is not None:
            if self.vote_group is not None:
                assert self.reducer is not None
                if self.rank_norms is not None:
                    counted_by = self._divisor.targets_per_image if self._criterion.counter else None
                    self.rank_norms.add([i for i, _ in present], gradients, attempt.counts, counted_by)
                unit = again(self._unit, warn) if self.reducer.compresses else 1.0
                self.reducer.sum(gradients, attempt.counts, unit)
            if self._criterion.counter is not None:
                correction = self._divisor.corrected_by(attempt.counts)
                torch._foreach_mul_(gradients, correction)
                loss = loss * correction
        self._put_lent_aside = put_aside(self.held, present) and attempt.lends_gradients
        return StepResult(loss, attempt.items, attempt.loss, wish)

    def _drop(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _was_momentary(self, reason: str) -> bool:
        """Whether the step can be repeated as it was: the memory that its plan needs is there, and it did not fail a moment ago."""
        steps_since, self._last_failure = self.history.steps - self._last_failure, self.history.steps
        if self.recomputation is None or steps_since < RARE_STEPS or not self.recomputation.fits_now():
            return False
        warn(f"out of memory ({reason}); what the step needs is free now: it is repeated as it was, on the same data")
        return True

    def _tighten(self, reason: str) -> bool:
        """Whether the step can be repeated under a plan that needs less."""
        change = self.recomputation.tighten() if self.recomputation is not None else None
        if change is None:
            return False
        warn(f"out of memory ({reason}); the step is repeated on the same data: {change}")
        return True

    def _parts(self, images: int) -> int:
        return min(max(self.micro_batches, self._planned_parts), images)

    def _wait(self, waits_s: Iterator[float]) -> bool:
        """Give a neighbour time before one image is tried again; whether that was not done often enough yet."""
        wait_s = next(waits_s, None)
        if wait_s is None:
            return False
        warn(f"{ONE_IMAGE}; it is tried again in {wait_s:g} s")
        time.sleep(wait_s)
        return True

    def _grow_back(self) -> None:
        """After a calm time larger parts are tried again."""
        self._calm_steps += 1
        if self._calm_steps >= CALM_STEPS and self.micro_batches > 1:
            self._calm_steps, old = 0, self.micro_batches
            self.micro_batches = old // 2
            change = f"{old} -> {self.micro_batches} micro-batches, after {CALM_STEPS} steps without trouble"
            self.history.note("split", change)
            say(f"memory: {change}")

    def _use_smaller_parts(self, images: int, reason: str) -> None:
        old = self._parts(images)
        self.micro_batches = min(old * 2, images)
        self.history.note("split", f"{old} -> {self.micro_batches} micro-batches")
        warn(
            f"out of memory ({reason}); the step is repeated on the same data: micro-batches {old} -> {self.micro_batches}"
        )
        if old == 1:
            say(
                "batch normalisation now sees parts of the batch: its statistics differ slightly from the whole batch's"
            )
