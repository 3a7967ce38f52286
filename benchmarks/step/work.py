# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much work a step is: the floating point operations of its products, and the bytes that its operators read and write.

Bytes are counted operator by operator, each operand once. A kernel that finds its operand in the card's cache moves less, one that reads it twice
moves more: it is what must move if every operator goes to memory, and no counter of the hardware.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass
class Work:
    """By phase."""

    operations: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """A multiplication and an addition are two. Of convolutions, matrix products and torch's attention; other attention packages are not known."""
    moved: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Bytes."""


class Counting(TorchDispatchMode):
    """While it is entered, every operator that torch runs is counted, those of backward too."""

    def __init__(self, phase: Callable[[], str]) -> None:
        super().__init__()
        self.phase = phase
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch instead of the operator."""
        made = func(*args, **(kwargs or {}))
        phase = self.phase()
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            self.work.operations[phase] += operations_of_convolutions_gradient(*args)
        elif (count := flop_registry.get(func._overloadpacket)) is not None:
            self.work.operations[phase] += count(*args, **(kwargs or {}), out_val=made)
        if not _moves_nothing(func):
            self.work.moved[phase] += bytes_of((args, kwargs)) + bytes_of(made)
        return made


def operations_of_convolutions_gradient(grad_out: Tensor, x: Tensor, weight: Tensor, *options: Any) -> int:
    """As many as forward for the input's gradient, and again for the weight's. torch's own count ignores groups (utils/flop_counter.py, 2.11).

    Args:
        grad_out: (n, channels out, height, width).
        x: (n, channels in, height, width).
        weight: (channels out, channels in / groups, height, width); turned round if the convolution is transposed.
        options: the other arguments of aten::convolution_backward; `transposed` is the fifth, and which gradients are wanted the last.
    """
    is_transposed, wanted = options[4], options[-1]
    forward = 2 * (x if is_transposed else grad_out).numel() * weight[0].numel()
    return forward * sum(wanted[:2])


def bytes_of(tree: Any) -> int:
    """Of all tensors in it; one that repeats its values without having them more than once counts with what it has."""
    return sum(
        min(leaf.numel() * leaf.element_size(), leaf.untyped_storage().nbytes())
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor)
    )


def _moves_nothing(func: torch._ops.OpOverload) -> bool:
    """Whether it makes a view, or memory whose content nobody has written."""
    returns = func._schema.returns
    is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
    # _unsafe_view is one that autograd is not told of.
    return is_view or func._schema.name.split("::")[-1].startswith(("empty", "new_empty", "resize", "_unsafe_view"))
