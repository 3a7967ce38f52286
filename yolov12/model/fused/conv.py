# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Conv` (convolution, batch norm, activation) as one operation in training.

Upstream's three modules keep the convolution's output for batch norm, batch norm's output for the activation, and the activation for the
next convolution. Here the normalised values are never kept, and the other two only as much as memory allows: what is missing is computed again in
backward, on a GPU with equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import IntFlag
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from ultralytics.nn.modules.conv import Conv

from yolov12.model.fused import join
from yolov12.model.fused.convolution import Geometry, by_our_kernel, convolve, gradients
from yolov12.model.fused.lineage import Kept, Source, known_source, remember
from yolov12.model.fused.norm import Normalised, normalise
from yolov12.model.hooks import is_heard_in_training
from yolov12.seams import Seam

SEAMS = (Seam("nn/modules/conv.py", 78, "ultralytics.nn.modules.conv.Conv.forward", "d42399472788"),)

_upstream_forward = Conv.forward


class Keep(IntFlag):
    """What a `Conv` keeps for backward. Without one of these it runs upstream's modules, which keep one thing more."""

    NOTHING = 0
    """The input is rebuilt and the convolution runs once more."""
    INPUT = 1
    """Its input, for the gradient of the weight; else it is rebuilt from what other convolutions keep, where that is known."""
    CONVOLUTION = 2
    """The convolution's output, for batch norm and the activation; else the convolution runs once more."""
    BOTH = 3


_choices: WeakKeyDictionary[nn.Module, Keep] = WeakKeyDictionary()
"""Beside the modules and not in them, so that checkpoints are those of stock."""


def choose(choices: Mapping[nn.Module, Keep]) -> None:
    """Say for each of these modules what it keeps from the next forward on; others run upstream's code."""
    _choices.clear()
    _choices.update(choices)


@contextmanager
def choosing(choices: Mapping[nn.Module, Keep]) -> Iterator[None]:
    """Other choices for the length of a block."""
    before = dict(_choices)
    choose(choices)
    try:
        yield
    finally:
        choose(before)


class Watcher:
    """Hears of every call in forward, for measuring; does nothing with it."""

    def begins(self) -> None:
        """The convolution of a call is about to run."""

    def convolved(self) -> None:
        """It has run; batch norm and activation follow."""

    def made(self, module: Conv, call: Call, output: Tensor) -> None:
        """Forward of a call is done."""


_watchers: list[Watcher] = []


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of the calls in this block."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class Call:
    """One call of a `Conv`: what is needed to compute its output again."""

    def __init__(self, module: Conv, source: Source, keep: Keep) -> None:
        self.source: Source | None = source
        self.keep = keep
        self.silu = isinstance(module.act, nn.SiLU)
        self.norm = module.bn
        conv = module.conv
        self.geometry = Geometry.of(conv)
        self.weight: Tensor | None = None
        self.normalised: Normalised | None = None
        self.convolved: Tensor | None = None
        self.channels = conv.out_channels

    def first_time(self, x: Tensor, weight: Tensor) -> Tensor:
        """The output, as forward needs it."""
        self.weight, self.shape = weight, x.shape
        for watcher in _watchers:
            watcher.begins()
        y = self._convolve(x)
        for watcher in _watchers:
            watcher.convolved()
        self.normalised = normalise(y, self.norm, self.silu)
        if self.keep & Keep.CONVOLUTION:
            self.convolved = y
        return self.normalised.output(y)

    def output_of_convolution(self) -> Tensor:
        """Kept, or computed again; then it stays until this call's own backward, for others may ask too."""
        if self.convolved is None:
            assert self.source is not None, "nobody asks after this call's backward"
            self.convolved = self._convolve(self.source.rebuild())
        return self.convolved

    def backward(self, grad: Tensor, needs_x: bool, needs_weight: bool) -> tuple[Tensor | None, ...]:
        """Gradients of the input, the weight, and batch norm's weight and bias. Lets go of everything that was kept."""
        if self.normalised is None or self.source is None or self.weight is None:
            raise RuntimeError(
                "backward ran already and let go of what it needs: retain_graph=True is for YOLOV12_CHECKPOINT=0"
            )
        grad_y, grad_gamma, grad_beta = self.normalised.gradient(grad, self.output_of_convolution())
        weight, source = self.weight, self.source
        self.convolved = self.normalised = self.weight = self.source = None
        x = source.rebuild() if needs_weight else grad_y.new_empty(1).expand(self.shape)
        grad_x, grad_weight = gradients(grad_y, x, weight, self.geometry, needs_x, needs_weight)
        return grad_x, grad_weight, grad_gamma, grad_beta

    def _convolve(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return convolve(x, self.weight, self.geometry)


class OutputOf:
    """The source of a call's output, or of some of its channels."""

    def __init__(self, call: Call, first: int, channels: int) -> None:
        self.call, self.first, self.channels = call, first, channels
        self.inputs: Sequence[Source] = ()

    def rebuild(self, out: Tensor | None = None, *, add: bool = False) -> Tensor:
        y = self.call.output_of_convolution()
        assert self.call.normalised is not None
        channels = slice(self.first, self.first + self.channels)
        return self.call.normalised.output(y, out, add=add, channels=channels)

    def part(self, first: int, channels: int) -> Source:
        return OutputOf(self.call, self.first + first, channels)


class _ConvNormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, call: Call) -> Tensor:
        ctx.call = call
        return call.first_time(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        return (*ctx.call.backward(grads[0], needs_x, needs_weight), None)


def forward(self: Conv, x: Tensor) -> Tensor:
    """Convolution, batch norm and activation. Replaces ultralytics 8.4.190 nn/modules/conv.py:78."""
    keep = None if torch.compiler.is_compiling() else _choices.get(self)
    if keep is not None:
        with join.unfollowed():
            if is_eligible(self, x):
                return _in_one(self, x, keep)
    y = by_our_kernel(self.conv, x)
    return _upstream_forward(self, x) if y is None else self.act(self.bn(y))


def _in_one(self: Conv, x: Tensor, keep: Keep) -> Tensor:
    weight, device = self.conv.weight, x.device.type
    autocasts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocasts:
        dtype = torch.get_autocast_dtype(device)
        x, weight = x if x.dtype is dtype else x.to(dtype), weight.to(dtype)
    taken = join.alone(x)
    source = None if keep & Keep.INPUT else known_source(x)
    call = Call(self, source or Kept(taken.detach()), keep)
    with torch.autocast(device, enabled=False) if autocasts else nullcontext():
        made = _ConvNormAct.apply(taken, weight, self.bn.weight, self.bn.bias, call)
    remember(made, OutputOf(call, 0, call.channels))
    for watcher in _watchers:
        watcher.made(self, call, made)
    return made


def is_eligible(module: Conv, x: Tensor) -> bool:
    """Whether this call is one that the fused operation computes: an ordinary `Conv` in training."""
    conv, norm = module.conv, module.bn
    return (
        module.training
        and torch.is_grad_enabled()
        and x.dim() == 4
        and (x.requires_grad or any(parameter.requires_grad for parameter in module.parameters()))
        and not torch.jit.is_tracing()
        and type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and type(module.act) in (nn.SiLU, nn.Identity)
        and not any(map(is_heard_in_training, (conv, norm, module.act)))
    )


def is_chosen() -> bool:
    """Whether any `Conv` is to run by the fused operation."""
    return bool(_choices)


def install() -> None:
    """Replace `Conv.forward`; again does nothing. Models that exist already change too."""
    Conv.forward = forward


def uninstall() -> None:
    """Put upstream's forward back."""
    Conv.forward = _upstream_forward
