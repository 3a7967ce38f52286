# SPDX-License-Identifier: AGPL-3.0-or-later
"""The weight decay of SGD, added to the gradients where they lie: the same bits, and no second copy of them.

torch's makes one tensor for each decayed parameter (torch/optim/sgd.py:430, 2.11), for the caller may want the gradient as it was; an update of ours
forgets it right after the step. torch's fused SGD makes none either, but rounds otherwise and refuses a gradient whose strides are not its
parameter's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import SGD, Optimizer


@contextmanager
def in_place(optimizer: Optimizer) -> Iterator[None]:
    """Within it, steps of plain SGD leave gradients with their decay in them. Groups are afterwards as they were, also where a step failed.

    Args:
        optimizer: another than torch's SGD steps as always, and so does one with hooks, which may look at groups and gradients.
    """
    if type(optimizer) is not SGD or optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        yield
        return
    taken: list[tuple[dict[str, Any], float]] = []

    @torch.no_grad()
    def add(*_: Any) -> None:
        for group in optimizer.param_groups:
            decay = group["weight_decay"]
            if not decay or group["maximize"] or group["differentiable"] or group["fused"]:
                continue
            decayed = [parameter for parameter in group["params"] if parameter.grad is not None]
            if decayed:
                torch._foreach_add_([parameter.grad for parameter in decayed], decayed, alpha=decay)
            taken.append((group, decay))
            group["weight_decay"] = 0

    def put_back(*_: Any) -> None:
        while taken:
            group, decay = taken.pop()
            group["weight_decay"] = decay

    hooks = optimizer.register_step_pre_hook(add), optimizer.register_step_post_hook(put_back)
    try:
        yield
    finally:
        put_back()
        for hook in hooks:
            hook.remove()
