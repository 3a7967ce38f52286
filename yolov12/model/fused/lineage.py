# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a tensor came from, so that it need not be kept for backward but is made again there.

A convolution needs its input once more for the gradient of its weight. That input is the output of cheap operations (normalise, activate,
concatenate, add, take a part, repeat pixels) on outputs of other convolutions, which are kept anyway. A tensor's lineage says by which.

While a model runs under `tracking()`, the lineage is passed on through these operations, whichever module calls them. A tensor without
lineage is kept as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from yolov12.model.fused import join

ATTRIBUTE = "_yolov12_lineage"


class Source(Protocol):
    """Makes a tensor again, (images, channels, height, width)."""

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        """The tensor; written into `out`, or added to it, if given."""

    def part(self, first: int, channels: int) -> Source:
        """The source of some of its channels."""

    @property
    def channels(self) -> int:
        """How many it has."""

    @property
    def inputs(self) -> Sequence[Source]:
        """The sources that it is made from; none if it is made from something else."""


@dataclass(frozen=True)
class Kept:
    """The tensor itself."""

    tensor: Tensor
    version: int = field(init=False)
    inputs = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.tensor._version)

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                "a tensor that backward needs was changed in place after it was used; YOLOV12_CHECKPOINT=0 runs upstream's code"
            )
        if out is None:
            return self.tensor
        return out.add_(self.tensor) if add else out.copy_(self.tensor)

    def part(self, first: int, channels: int) -> Source:
        return Kept(self.tensor.narrow(1, first, channels))

    @property
    def channels(self) -> int:
        return self.tensor.shape[1]


@dataclass(frozen=True)
class Joined:
    """A concatenation along the channels."""

    parts: Sequence[Source]

    @property
    def inputs(self) -> Sequence[Source]:
        return self.parts

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        begin, rest = self.parts[0], self.parts[1:]
        if out is None:
            # The first part tells what the whole looks like.
            made = begin.rebuild()
            out = torch.empty(
                (made.shape[0], self.channels, *made.shape[2:]),
                dtype=made.dtype,
                device=made.device,
                memory_format=torch.channels_last
                if made.is_contiguous(memory_format=torch.channels_last)
                else torch.contiguous_format,
            )
            out.narrow(1, 0, begin.channels).copy_(made)
            del made
        else:
            begin.rebuild(out.narrow(1, 0, begin.channels), add=add)
        first = begin.channels
        for part in rest:
            part.rebuild(out.narrow(1, first, part.channels), add=add)
            first += part.channels
        return out

    def part(self, first: int, channels: int) -> Source:
        return Part(self, first, channels)

    @property
    def channels(self) -> int:
        return sum(part.channels for part in self.parts)


@dataclass(frozen=True)
class Part:
    """Some channels of what can only be made whole."""

    whole: Source
    first: int
    channels: int

    @property
    def inputs(self) -> Sequence[Source]:
        return (self.whole,)

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        return Kept(self.whole.rebuild().narrow(1, self.first, self.channels)).rebuild(out, add=add)

    def part(self, first: int, channels: int) -> Source:
        return Part(self.whole, self.first + first, channels)


@dataclass(frozen=True)
class Sum:
    """A residual connection."""

    left: Source
    right: Source

    @property
    def inputs(self) -> Sequence[Source]:
        return (self.left, self.right)

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        if add:
            assert out is not None
            return out.add_(self.rebuild())  # rounded once, as the sum was
        if out is None:
            made = self.left.rebuild()
            out = made.clone() if isinstance(self.left, (Kept, Part)) else made
        else:
            self.left.rebuild(out)
        return self.right.rebuild(out, add=True)

    def part(self, first: int, channels: int) -> Source:
        return Sum(self.left.part(first, channels), self.right.part(first, channels))

    @property
    def channels(self) -> int:
        return self.left.channels


@dataclass(frozen=True)
class Upsampled:
    """Each pixel repeated: `F.interpolate(mode="nearest")`."""

    source: Source
    scale: float | tuple[float, ...]

    @property
    def inputs(self) -> Sequence[Source]:
        return (self.source,)

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        return Kept(F.interpolate(self.source.rebuild(), scale_factor=self.scale, mode="nearest")).rebuild(out, add=add)

    def part(self, first: int, channels: int) -> Source:
        return Upsampled(self.source.part(first, channels), self.scale)

    @property
    def channels(self) -> int:
        return self.source.channels


def leaves(source: Source) -> Iterator[Source]:
    """What a source is made from in the end: kept tensors and outputs of calls."""
    if not source.inputs:
        yield source
    for part in source.inputs:
        yield from leaves(part)


def remember(tensor: Tensor, source: Source) -> None:
    """Say where `tensor` came from. Forgotten as soon as somebody writes into it."""
    setattr(tensor, ATTRIBUTE, (source, tensor._version))


def known_source(tensor: Tensor) -> Source | None:
    """Where `tensor` came from, if that is known and still true."""
    found = getattr(tensor, ATTRIBUTE, None)
    return found[0] if found is not None and found[1] == tensor._version else None


def source_of(tensor: Tensor) -> Source:
    """How to have `tensor` again in backward; keeps it if there is no other way."""
    return known_source(tensor) or Kept(tensor.detach())


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
