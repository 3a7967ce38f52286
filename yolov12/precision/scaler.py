# SPDX-License-Identifier: AGPL-3.0-or-later
"""torch's GradScaler with a scale that foresees overflows, and without its wait for the GPU at each update.

Same calls, same state dict, same arithmetic: while nothing overflows, an update has the very bits that torch's has with the same scale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from yolov12.log import say
from yolov12.precision import loss_scale, skip

TOLD_WAITS = 10
"""The first updates wait in any case, until the optimizer has made its state; so many of them mean that it stays so."""


class YoloAMPScaler(GradScaler):
    """Drop-in for `torch.amp.GradScaler`: chooses the scale by loss_scale.py, skips an update by skip.py.

    Several ranks must unscale gradients that are already reduced, as step.py does: what this class sees is then the same on all of them, so
    all choose the same scale and skip the same updates without a collective of their own.

    Args:
        device: "cuda", or "cpu" for tests.
        init_scale: the first scale, and the one it stands at when no layer asks for another; rounded down to a power of two.
        growth_interval: updates without overflow after which one bit of learnt margin is given back.
        enabled: False makes every call that of torch's scaler when disabled.
        kwargs: growth_factor and backoff_factor; kept for the state dict, and used only by a stock scaler that loads it.
    """

    _largest: dict[int, Tensor]
    """By optimizer: what `unscale_` saw since the last update, shape (layers,)."""
    _layers: dict[int, loss_scale.Layers]
    _caution: loss_scale.Caution | None
    _waits: int

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_interval: int = 2000,
        enabled: bool = True,
        **kwargs: float,
    ) -> None:
        super().__init__(device, init_scale=init_scale, growth_interval=growth_interval, enabled=enabled, **kwargs)
        self._usual_bits = math.floor(math.log2(init_scale))
        self._forget()

    @classmethod
    def in_place_of(cls, stock: GradScaler) -> YoloAMPScaler:
        """One that goes on from the state of a scaler that ultralytics made and may have loaded from a checkpoint."""
        made = cls(stock._device, enabled=stock.is_enabled())
        if stock.is_enabled():
            made.load_state_dict(stock.state_dict())
        return made

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, look for inf and NaN, and note each layer's largest one."""
        super().unscale_(optimizer)
        if self._enabled:
            self._largest[id(optimizer)] = largest_gradients(optimizer, self._scale_on_device().device)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """`optimizer.step()`, without effect if a gradient was inf or NaN."""
        if not self._enabled or "closure" in kwargs:  # torch refuses closures, in its own words
            return super().step(optimizer, *args, **kwargs)
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is OptState.READY:
            self.unscale_(optimizer)
        if state["stage"] is OptState.UNSCALED and skip.is_first_of_fused_sgd(optimizer):
            result = super()._maybe_opt_step(optimizer, state, *args, **kwargs)
            state["stage"] = OptState.STEPPED
            return result
        return super().step(optimizer, *args, **kwargs)

    def _maybe_opt_step(
        self, optimizer: Optimizer, optimizer_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> float | None:
        device = self._scale_on_device().device
        exact, reason = skip.can_put_back(optimizer, device)
        if exact:
            return skip.step_or_put_back(optimizer, self._found_inf([optimizer_state]), *args, **kwargs)
        self._waits += 1
        if self._waits == TOLD_WAITS:
            name = type(optimizer).__name__
            say(f"loss scale: updates wait for the device, since {name} can not be put back: {reason}")
        return super()._maybe_opt_step(optimizer, optimizer_state, *args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Choose the next scale, or set it to `new_scale`."""
        if not self._enabled or new_scale is not None or not self._largest:
            super().update(new_scale)  # also for its error where no gradient was looked at
            self._largest = {}
            return
        scale, tracker = self._check_scale_growth_tracker("update")
        overflow = self._found_inf(list(self._per_optimizer_states.values())) > 0
        # Those of other optimizers are forgotten: one that is used no more must not hold the scale.
        self._layers = {key: self._observed(key, largest) for key, largest in self._largest.items()}
        bits, self._caution = loss_scale.next_scale(
            scale=loss_scale.whole_bits(scale),
            usual=self._usual_bits,
            loud=torch.stack([loss_scale.loudest(layers) for layers in self._layers.values()]).amax(),
            quiet=torch.stack([loss_scale.quietest(layers) for layers in self._layers.values()]).amin(),
            overflow=overflow,
            is_nan_only=is_nan_only(torch.cat(list(self._largest.values()))),
            caution=self._caution or loss_scale.no_caution(scale.device),
            interval=self._growth_interval,
        )
        scale.copy_(loss_scale.power_of_two(bits))
        # As a stock scaler counts, which may load it: it grows when its count equals the interval, so it must not be beyond.
        tracker.copy_(torch.where(overflow, 0, (tracker + 1) % self._growth_interval))
        self._per_optimizer_states.clear()
        self._largest = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class or of torch's. The statistics are not in it: the first update makes them anew."""
        super().load_state_dict(state_dict)
        self._forget()

    def _forget(self) -> None:
        self._largest, self._layers = {}, {}
        self._caution, self._waits = None, 0

    def _observed(self, key: int, largest: Tensor) -> loss_scale.Layers:
        before = self._layers.get(key)
        if before is None or before.mean.shape != largest.shape:
            before = loss_scale.unseen_layers(len(largest), largest.device)
        return loss_scale.observe(before, largest)

    def _found_inf(self, states: list[dict[str, Any]]) -> Tensor:
        """1 if inf or NaN was found in any of these, else 0; a scalar on the device."""
        device = self._scale_on_device().device
        found = [
            flag.to(device, non_blocking=True) for state in states for flag in state["found_inf_per_device"].values()
        ]
        return torch.stack(found).amax()

    def _scale_on_device(self) -> Tensor:
        return self._check_scale_growth_tracker("unscale_")[0]


def largest_gradients(optimizer: Optimizer, device: torch.device) -> Tensor:
    """max |gradient| of each parameter, in the optimizer's order, shape (parameters,), fp32 on `device`; 0 where there is none, or an empty one."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [None if parameter.grad is None else _values(parameter.grad) for parameter in parameters]
    present = [gradient for gradient in gradients if gradient is not None and gradient.numel()]
    norms = iter(torch._foreach_norm(present, math.inf) if present else ())
    none = torch.zeros((), device=device)
    largest = [next(norms) if gradient is not None and gradient.numel() else none for gradient in gradients]
    # Asked only where something is to be done: each call gives Python's lock to a loader's threads.
    return torch.stack(
        [
            norm
            if norm.device == device and norm.dtype is torch.float32
            else norm.to(device, torch.float32, non_blocking=True)
            for norm in largest
        ]
    )


def _values(gradient: Tensor) -> Tensor:
    """The numbers that a gradient has: a sparse one, as of an embedding, has none for rows that were not read."""
    return gradient._values() if gradient.is_sparse else gradient


def is_nan_only(largest: Tensor) -> Tensor:
    """Whether every layer that has a gradient has NaN in it, as after a loss of NaN. An overflow leaves inf, or the layers after it finite."""
    return (largest.isnan() | (largest == 0)).all()
