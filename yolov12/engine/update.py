# SPDX-License-Identifier: AGPL-3.0-or-later
"""An update of the weights that counts whole or not at all: unscale, clip, optimizer, loss scale, EMA (engine/trainer.py:909).

    copy      what the update changes is copied: weights, gradients, optimizer's state, EMA, loss scale
    update    ultralytics' own
    or undo   out of memory anywhere in between: everything gets its old bits back, the cache is released, and the update is made again

The gradients are those of all ranks by then, so a rank that repeats does so alone and gets the bits that the others have. Activations are
gone when the copies are made, which is why those do not raise a step's peak: their memory exists only during an update (room.py). A repeated
update keeps its copies in the host's memory. What is copied is listed once for as long as it stays the same: beside a loader's threads each
tensor that Python makes or frees takes a multiple of its time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from yolov12.engine import optimizer_state, weight_decay
from yolov12.engine.clip import clip_grad_norm_
from yolov12.engine.room import Room
from yolov12.errors import DeviceFullError
from yolov12.log import warn
from yolov12.memory.failure import WAITS_S, is_out_of_memory, one_line, release_memory
from yolov12.memory.history import History
from yolov12.seams import Seam, replaced

SEAMS = (
    Seam("engine/trainer.py", 909, "ultralytics.engine.trainer.BaseTrainer.optimizer_step", "bec16cbc552a"),
    # Updates all averages by one operator, without allocating: nothing of ours is needed there.
    Seam("utils/torch_utils.py", 856, "ultralytics.utils.torch_utils.ModelEMA.update", "0010b896c035"),
)


class Update:
    """Makes the updates of one run.

    Args:
        trainer: with `model`, `optimizer`, `ema`, `scaler` and `optimizer_step()`, as ultralytics sets them up. The optimizer's state is made
            here, if it is not there yet.
        history: where repeated updates are noted.

    Raises:
        DeviceFullError: there is no memory for the optimizer's state.
    """

    def __init__(self, trainer: Any, history: History) -> None:
        self.trainer = trainer
        self.history = history
        self._of_groups: list[Any] = []
        self.parameters: list[nn.Parameter] = []
        self.copies = Copies()
        try:
            optimizer_state.allocate(trainer.optimizer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceFullError(
                f"out of memory before the first step: no room for the state of {type(trainer.optimizer).__name__} ({one_line(error)}); "
                "use a smaller model, optimizer=SGD, or free the device's memory"
            ) from None

    def run(self) -> None:
        """Make one update from the gradients that the parameters hold.

        Raises:
            DeviceFullError: out of memory each time; everything is as it was before the update.
        """
        failure = self._try(on_host=False)
        for wait_s in WAITS_S:
            if failure is None:
                return
            self.history.note("update", failure)
            warn(f"out of memory in the update of the weights ({failure}); it is undone and made again")
            release_memory()
            time.sleep(wait_s)
            failure = self._try(on_host=True)
        if failure is not None:
            raise DeviceFullError(
                f"out of memory in the update of the weights, {1 + len(WAITS_S)} times in a row ({failure}); the weights are those before it. "
                "Free the device's memory, or use a smaller model or optimizer=SGD"
            )

    def _try(self, on_host: bool) -> str | None:
        """None if the update was made, else why there was no memory for it; everything is as before then."""
        try:
            return self._attempt(on_host)
        finally:
            self.copies.release()

    def _find_parameters(self) -> None:
        """Those of the model and of the optimizer, to which a callback may have added some."""
        of_groups = [parameter for group in self.trainer.optimizer.param_groups for parameter in group["params"]]
        if not (self.parameters and _same(of_groups, self._of_groups)):
            self._of_groups = of_groups
            self.parameters = list(dict.fromkeys([*unwrap_model(self.trainer.model).parameters(), *of_groups]))

    def _attempt(self, on_host: bool) -> str | None:
        t = self.trainer
        self._find_parameters()
        before: Before | None = None
        try:
            before = Before(self.parameters, t.optimizer, t.ema, t.scaler, None if on_host else self.copies)
            with replaced(nn.utils, clip_grad_norm_=clip_grad_norm_), weight_decay.in_place(t.optimizer):
                t.optimizer_step()
            return None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = one_line(error)
        if before is not None:
            before.put_back()
        return failure


class Before:
    """Everything that an update changes, as it was when this was made.

    Args:
        parameters: of the model and the optimizer.
        optimizer, ema, scaler: the run's; `ema` may be None.
        copies: where the tensors' copies lie; None for the host's memory, which waits for the GPU and takes nothing of the device's.
    """

    @torch.no_grad()
    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        ema: ModelEMA | None,
        scaler: Any,
        copies: Copies | None,
    ) -> None:
        self.parameters, self.optimizer, self.ema, self.scaler = parameters, optimizer, ema, scaler
        self.gradients = [parameter.grad for parameter in parameters]
        self.state = [(parameter, values, values.copy()) for parameter, values in optimizer.state.items()]
        state = []
        for _, _, kept in self.state:
            for name, value in kept.items():
                if isinstance(value, Tensor):
                    state.append(value)
                elif value is not None:
                    kept[name] = copy.deepcopy(value)
        self.scaler_state = copy.deepcopy(vars(scaler))  # its tensors are scalars, and one number for each layer
        self.ema_updates = ema.updates if ema else 0
        gradients = [gradient for gradient in self.gradients if gradient is not None]
        changing = [p for p, gradient in zip(parameters, self.gradients, strict=True) if gradient is not None]
        lasting = [*changing, *state, *_of_the_ema(ema)]
        if copies is None:
            tensors = [*lasting, *gradients]
            self.tensors = [(tensors, [tensor.to("cpu", copy=True) for tensor in tensors])]
        else:
            self.tensors = copies.take(lasting, gradients)

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo an update, also one that ended half-way. Allocates nothing on the device."""
        for live, copies in self.tensors:
            torch._foreach_copy_(live, copies)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        # State that the failed update made goes with it.
        self.optimizer.state.clear()
        for owner, values, kept in self.state:
            values.clear()
            values.update(kept)
            self.optimizer.state[owner] = values
        # Other tensors than those of the scaler that a step's graph reads; the graph goes with `release_memory`, before the next try.
        vars(self.scaler).update(self.scaler_state)
        if self.ema:
            self.ema.updates = self.ema_updates


class Copies:
    """Room for an update's copies, made anew where what an update changes is not what it was in the one before."""

    def __init__(self) -> None:
        self._lasting: list[Tensor] = []
        self._strides: list[tuple[int, ...]] = []
        self._room = Room([])

    def take(self, lasting: list[Tensor], gradients: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Copy them; pairs of lists, of the tensors and of their copies, which hold until `release`.

        Args:
            lasting: what stays the same object from one update to the next, their parameters first.
            gradients: of these parameters, new ones in each step as a rule.
        """
        # Of gradients only the strides may differ: all else is their parameters'.
        strides = [gradient.stride() for gradient in gradients]
        if not (_same(lasting, self._lasting) and strides == self._strides):
            self._room = Room([*lasting, *gradients])
            self._lasting, self._strides = lasting, strides
        return self._room.take([*lasting, *gradients])

    def release(self) -> None:
        """Give the copies' memory back."""
        self._room.release()


def _same(ours: Sequence[object], theirs: Sequence[object]) -> bool:
    """Whether two lists hold the same objects. What a parameter hashes and compares by is Python, and slow."""
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))


def _of_the_ema(ema: ModelEMA | None) -> list[Tensor]:
    if ema is None:
        return []
    if ema._pairs is not None:  # its own list, from its first update on
        return ema._pairs[0]
    return [tensor for tensor in ema.ema.state_dict().values() if tensor.is_floating_point()]
