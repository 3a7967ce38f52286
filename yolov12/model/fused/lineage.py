# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a tensor came from, so that it need not be kept for backward but is made again there.

A convolution needs its input once more for the gradient of its weight. That input is the output of cheap operations (normalise, activate,
concatenate, add, take a part, repeat pixels) on outputs of other convolutions, which are kept anyway. A tensor's lineage says by which.

How lineages are passed on while a model runs: following.py. A tensor without one is kept as always.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

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
