# SPDX-License-Identifier: AGPL-3.0-or-later
"""An update of the weights that counts whole or not at all: unscale, clip, optimizer, loss scale, EMA (engine/trainer.py:909).

    copy      what the update changes is copied: weights, gradients, optimizer's state, EMA, loss scale
    update    ultralytics' own
    or undo   out of memory anywhere in between: everything gets its old bits back, the cache is released, and the update is made again

The gradients are those of all ranks by then, so a rank that repeats does so alone and gets the bits that the others have. Activations are
gone when the copies are made, which is why those do not raise a step's peak. A repeated update keeps its copies in the host's memory.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from yolov12.engine import optimizer_state
from yolov12.engine.clip import clip_grad_norm_
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
        groups = (parameter for group in trainer.optimizer.param_groups for parameter in group["params"])
        self.parameters = list(dict.fromkeys([*unwrap_model(trainer.model).parameters(), *groups]))
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
        t = self.trainer
        before: Before | None = None
        try:
            before = Before(self.parameters, t.optimizer, t.ema, t.scaler, on_host)
            with replaced(nn.utils, clip_grad_norm_=clip_grad_norm_):
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
        on_host: the copies lie in the host's memory, which waits for the GPU and takes nothing of the device's.
    """

    @torch.no_grad()
    def __init__(
        self, parameters: list[nn.Parameter], optimizer: Optimizer, ema: ModelEMA | None, scaler: Any, on_host: bool
    ) -> None:
        self.optimizer, self.ema, self.scaler = optimizer, ema, scaler
        self.gradients = [(parameter, parameter.grad) for parameter in parameters]
        self.state = {parameter: _with_copied_numbers(state) for parameter, state in optimizer.state.items()}
        self.scaler_state = copy.deepcopy(vars(scaler))  # its tensors are scalars, and one number for each layer
        self.ema_updates = ema.updates if ema else 0
        self.tensors = [(live, _copies(live, on_host)) for live in _alike([*self._of_the_model(), *self._of_the_ema()])]

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo an update, also one that ended half-way. Allocates nothing on the device."""
        for live, copies in self.tensors:
            torch._foreach_copy_(live, copies)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        # State that the failed update made goes with it.
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        vars(self.scaler).update(self.scaler_state)
        if self.ema:
            self.ema.updates = self.ema_updates

    def _of_the_model(self) -> list[Tensor]:
        changing = [(parameter, gradient) for parameter, gradient in self.gradients if gradient is not None]
        state = [value for values in self.state.values() for value in values.values() if isinstance(value, Tensor)]
        return [*chain.from_iterable(changing), *state]

    def _of_the_ema(self) -> list[Tensor]:
        if not self.ema:
            return []
        if self.ema._pairs is not None:  # its own list, from its first update on
            return self.ema._pairs[0]
        return [tensor for tensor in self.ema.ema.state_dict().values() if tensor.is_floating_point()]


def _with_copied_numbers(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()}


def _alike(tensors: list[Tensor]) -> list[list[Tensor]]:
    """In one list for each device and dtype, as operators on lists want them."""
    found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        found[tensor.device, tensor.dtype].append(tensor)
    return list(found.values())


def _copies(tensors: list[Tensor], on_host: bool) -> list[Tensor]:
    if on_host or not tensors[0].is_floating_point():
        return [tensor.to("cpu" if on_host else tensor.device, copy=True) for tensor in tensors]
    # Times one is the one copy of a list that needs no list of targets.
    return list(torch._foreach_mul(tensors, 1))
