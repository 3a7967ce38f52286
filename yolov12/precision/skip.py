# SPDX-License-Identifier: AGPL-3.0-or-later
"""Taking or skipping an optimizer's step by a flag that stays on the device.

torch reads the flag on the host, which makes every step wait for the GPU, unless the optimizer is a fused one. Here any optimizer whose whole
state lies on the device steps first and is put back afterwards where the flag says so. That is exact: what is put back are the old bits.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def is_first_of_fused_sgd(optimizer: Optimizer) -> bool:
    """Whether the optimizer is fused SGD with a momentum that its next step makes, so that only the host may skip that step.

    The kernel that is told to skip leaves the new momentum uninitialised (torch/optim/sgd.py:512), and the step after it goes wrong. Other
    fused optimizers make their state before the kernel runs.
    """
    return getattr(optimizer, "_step_supports_amp_scaling", False) and any(
        group.get("momentum") and "momentum_buffer" not in optimizer.state.get(parameter, {})
        for group in optimizer.param_groups
        for parameter in _with_gradient(group)
    )


def can_put_back(optimizer: Optimizer, device: torch.device) -> tuple[bool, str]:
    """Whether `step_or_put_back` is exact for the optimizer now, and the reason.

    Args:
        optimizer: any; its state is looked at before each step, because a first step makes it.
        device: where the flag is.
    """
    for group in optimizer.param_groups:
        for parameter in _with_gradient(group):
            state = optimizer.state.get(parameter, {})
            if not state:
                return False, "it has no state for some parameter"
            for name, value in state.items():
                if value is not None and not (
                    isinstance(value, Tensor) and value.device == device and value.is_floating_point()
                ):
                    return False, f"its state {name!r} is no float on the device"
    return True, "its state is on the device"


def step_or_put_back(optimizer: Optimizer, flag: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`optimizer.step()`, with parameters and state as they were where the flag is set.

    The copy is as large as the parameters and the state together and lives for the length of the step, when activations are already freed.

    Args:
        optimizer: one that `can_put_back`.
        flag: scalar on the device, 1 to skip and 0 to step.
        args, kwargs: for `optimizer.step`, whose result is returned.
    """
    live = _state_of(optimizer)
    # Times one is the one copy of a list that needs no list of targets.
    copies = [torch._foreach_mul(tensors, 1) for tensors in live]
    result = optimizer.step(*args, **kwargs)
    for tensors, copy in zip(live, copies, strict=True):
        copy_where(flag, tensors, list(copy))
    return result


def copy_where(flag: Tensor, targets: list[Tensor], sources: list[Tensor]) -> None:
    """`targets[i] = sources[i]` for all i if the flag is 1, nothing if it is 0; the sources are used up.

    The first step of fused SGD sets the momentum to the gradient, unless found_inf is 1: the one operator of torch that moves a list of tensors
    under a flag on the device (aten/src/ATen/native/cuda/FusedSgdKernel.cu, sgd_math).

    Args:
        flag: scalar, exactly 0 or 1.
        targets: floating-point tensors of one dtype on the flag's device; may hold anything, inf and NaN included.
        sources: tensors of the same shapes and strides.
    """
    torch._fused_sgd_(
        sources,  # as parameters too, moved by a learning rate of zero
        sources,
        targets,
        weight_decay=0.0,
        momentum=1.0,
        lr=0.0,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=True,
        grad_scale=None,
        found_inf=1 - flag,
    )


def _with_gradient(group: dict[str, Any]) -> list[Tensor]:
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def _state_of(optimizer: Optimizer) -> list[list[Tensor]]:
    """Everything that a step changes, in one list per dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for group in optimizer.param_groups:
        for parameter in _with_gradient(group):
            for tensor in (parameter.detach(), *optimizer.state[parameter].values()):
                if tensor is not None:
                    by_dtype[tensor.dtype].append(tensor)
    return list(by_dtype.values())
