# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model that is followed: what torch's operations mean for lineages, and which of them are done in one pass of ours.

While it runs under `tracking()`, lineages (lineage.py) are passed on through concatenations, sums, divisions and upsampling, whichever module calls
them, and those that our kernels take are joined in one pass (join.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from yolov12.model.fused import join
from yolov12.model.fused.lineage import Joined, Sum, Upsampled, known_source, remember, source_of


def _joined(made: Any, tensors: Sequence[Tensor], dim: int = 0, **_: Any) -> None:
    if dim in (1, -3) and made.dim() == 4 and any(known_source(tensor) for tensor in tensors):
        remember(made, Joined([source_of(tensor) for tensor in tensors]))


def _added(made: Any, left: Any, right: Any, **options: Any) -> None:
    if options or not (isinstance(left, Tensor) and isinstance(right, Tensor)) or left.shape != right.shape:
        return
    sources = known_source(left), known_source(right)
    # A sum of a sum is kept: rebuilding the last of a chain of residual blocks would walk through all of them.
    if left.dim() == 4 and all(sources) and not any(isinstance(source, Sum) for source in sources):
        remember(made, Sum(*sources))  # type: ignore[arg-type]  # `all` says that neither is None


def _divided(made: Any, whole: Tensor, *_: Any, **__: Any) -> None:
    source = known_source(whole)
    if source is None or sum(part.shape[1] for part in made) != whole.shape[1]:  # along another dimension
        return
    first = 0
    for part in made:
        remember(part, source.part(first, part.shape[1]))
        first += part.shape[1]


def _upsampled(
    made: Any, tensor: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **options: Any
) -> None:
    source = known_source(tensor)
    if source is not None and size is None and mode == "nearest" and not any(options.values()):
        remember(made, Upsampled(source, scale_factor))


RULES: dict[Callable[..., Any], Callable[..., None]] = {
    torch.cat: _joined,
    torch.add: _added,
    Tensor.add: _added,
    Tensor.__add__: _added,
    torch.chunk: _divided,
    Tensor.chunk: _divided,
    torch.split: _divided,
    Tensor.split: _divided,
    F.interpolate: _upsampled,
}
"""Operation -> what it means for lineages, called with its result and its arguments."""
BY_NAME = {"input", "tensors", "tensor", "self", "other"}
"""Tensors that came by name: a rule would look for them in their places. Their results are kept as always."""


def _in_its_own_dtype(function: Any, args: Any, kwargs: Any) -> AbstractContextManager[Any]:
    """Repeating pixels is exact in any dtype, but autocast makes it float32, and what it is concatenated with after it."""
    repeats = function is F.interpolate and kwargs.get("mode", "nearest") == "nearest"
    if not repeats or not torch.amp.is_autocast_available(args[0].device.type):
        return nullcontext()
    return torch.autocast(args[0].device.type, enabled=False)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    alike = len({tensor.dtype for tensor in tensors}) == 1
    return join.concatenated(tensors) if dim in (1, -3) and alike and all(map(join.serves, tensors)) else None


def _plus(left: Any, right: Any) -> Tensor | None:
    return torch.add(join.alone(left), join.alone(right)) if join.serves(left) and join.serves(right) else None


def _parts(divide: Callable[..., Sequence[Tensor]], whole: Tensor, how: Any, dim: int = 0) -> Sequence[Tensor] | None:
    if dim not in (1, -3) or not join.serves(whole):
        return None
    return join.divided(whole, [part.shape[1] for part in divide(whole.detach(), how, dim)])


OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.cat: _cat,
    torch.add: _plus,
    Tensor.add: _plus,
    Tensor.__add__: _plus,
    torch.chunk: partial(_parts, torch.chunk),
    Tensor.chunk: partial(_parts, torch.chunk),
    torch.split: partial(_parts, torch.split),
    Tensor.split: partial(_parts, torch.split),
}
"""Operation -> what stands in for it; None where that does not serve."""


class tracking(TorchFunctionMode):  # used as a context, like torch.no_grad
    """Passes lineages on through the operations of RULES, and has those of OURS done in one pass."""

    def __enter__(self) -> tracking:
        join.following.depth += 1
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        join.following.depth -= 1
        super().__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        are_in_their_places = not BY_NAME & kwargs.keys()
        ours = OURS.get(function)
        made = ours(*args, **kwargs) if ours is not None and are_in_their_places and kwargs.keys() <= {"dim"} else None
        if made is None:
            with _in_its_own_dtype(function, args, kwargs):
                made = function(*args, **kwargs)
        rule = RULES.get(function)
        if rule is not None and are_in_their_places:
            rule(made, *args, **kwargs)
        return made
