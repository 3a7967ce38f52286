# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state of an optimizer, made before the first step instead of in it, and laid out in memory as the parameters are.

The memory plan then sees what the optimizer takes, and an update allocates nothing that lasts. The first update has the very bits that it
would have had without.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop
from ultralytics.optim import MuSGD

from yolov12.seams import Seam

SEAMS = (Seam("optim/muon.py", 210, "ultralytics.optim.muon.MuSGD.step", "b5df0189d9c5"),)

MADE_BY_THEMSELVES = (Adam, AdamW, Adamax, NAdam, RAdam, RMSprop)


@torch.no_grad()
def allocate(optimizer: Optimizer) -> bool:
    """Make the state that the first step would make; what is there already, as in a resumed run, keeps its numbers.

    Call it again when a checkpoint was loaded. The state in it has the strides of the run that wrote it, on a CPU say, where a model is not in
    channels_last: torch's fused Adam refuses these on a GPU, and SGD would take each tensor by itself.

    Args:
        optimizer: any that ultralytics builds (engine/trainer.py:1155).

    Returns:
        False for another, which makes its state itself in its first step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            _lay_out(optimizer.state.get(parameter, {}), parameter)
        new = [p for p in group["params"] if p.requires_grad and not optimizer.state.get(p)]
        if type(optimizer) in MADE_BY_THEMSELVES:
            _as_in_a_step(optimizer, group, new)
        elif type(optimizer) is SGD:
            # Its first step sets the momentum to the gradient; from then on it is momentum * before + gradient. Minus zero is what gives
            # each gradient unchanged in that sum, a gradient of minus zero included.
            if group["momentum"] and not group["dampening"]:
                for parameter in new:
                    optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, -0.0)
        elif type(optimizer) is MuSGD:
            for parameter in new:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                if group["use_muon"]:
                    optimizer.state[parameter]["momentum_buffer_SGD"] = torch.zeros_like(parameter)
        else:
            return False
    return True


def _lay_out(state: dict[str, Any], parameter: Tensor) -> None:
    """Give what is of the parameter's shape in its state the parameter's strides."""
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
            state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _as_in_a_step(optimizer: Optimizer, group: dict, parameters: list[Tensor]) -> None:
    """What torch's optimizers do first in a step, by their own code: parameters with a gradient and no state get one."""
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = parameter.new_zeros(()).expand_as(parameter)  # a gradient that takes no memory
    make = optimizer._init_group  # type: ignore[attr-defined]  # each of them has it; the lists that it fills differ in number
    lists: list[list] = [[] for _ in range(len(inspect.signature(make).parameters) - 1)]
    try:
        make(group, *lists)
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
