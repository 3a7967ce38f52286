# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kernels of training in bfloat16: batch norm with SiLU, depthwise convolutions, the stem, and what lies between convolutions, against torch.

All wait for memory, so what counts is bytes a second. Functions that make the contests of a row, as in inference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.kernels import shapes
from benchmarks.kernels.contest import OTHER, OURS, Call, Contest
from benchmarks.kernels.inference import Place
from benchmarks.kernels.shapes import Convolution, Joined, Norm

MOMENTUM, EPSILON = 0.03, 1e-3
NORM_FORWARD_TENSORS = 3
"""Read for the statistics, read again and written for the output."""
NORM_BACKWARD_TENSORS = 5
"""The input and the gradient of the output read for the sums, both again and the input's gradient written."""
STATISTICS, APPLY = "statistics", "apply"
"""The two passes of our forward."""


def norm_forward(place: Place, size: str, images: int) -> list[Contest]:
    """torch's batch norm and SiLU against our two passes."""
    return _norms(place, size, images, NORM_FORWARD_TENSORS, _norm_forward_ways)


def norm_backward(place: Place, size: str, images: int) -> list[Contest]:
    """Gradients of torch's SiLU and batch norm, which kept what lies between, against ours, which compute that again."""
    return _norms(place, size, images, NORM_BACKWARD_TENSORS, _norm_backward_ways)


def depthwise_forward(place: Place, size: str, images: int) -> list[Contest]:
    """cuDNN against ours."""
    return _convolutions(place, size, images, "is_depthwise", 1, partial(_forward_ways, "depthwise", (False,)))


def depthwise_backward(place: Place, size: str, images: int) -> list[Contest]:
    """cuDNN's gradients of input and filter against our two kernels."""
    # One reads the gradient and writes the input's, the other reads the gradient and the input.
    return _convolutions(place, size, images, "is_depthwise", 2, _depthwise_backward_ways)


def stem_forward(place: Place, size: str, images: int) -> list[Contest]:
    """cuDNN against ours, pictures in planes."""
    return _convolutions(place, size, images, "is_stem", 1, partial(_forward_ways, "stem", (None,)))


def stem_backward(place: Place, size: str, images: int) -> list[Contest]:
    """cuDNN's gradient of the filter against ours."""
    return _convolutions(place, size, images, "is_stem", 1, _stem_backward_ways)


def join(place: Place, size: str, images: int) -> list[Contest]:
    """torch's upsampling and concatenation against one pass."""
    found = shapes.joins(size, images, place.imgsz)
    return [
        Contest(shape.words(), shape.moved_bytes, partial(_join_ways, place, shape), times)
        for shape, times in found.items()
    ]


_Ways = Callable[[Place, Any, int], Mapping[str, Sequence[Call]]]


def _norms(place: Place, size: str, images: int, tensors: int, ways: _Ways) -> list[Contest]:
    found = shapes.norms(size, images, place.imgsz)
    return [
        Contest(shape.words(), tensors * shape.tensor_bytes, partial(ways, place, shape), times)
        for shape, times in found.items()
    ]


def _convolutions(place: Place, size: str, images: int, kind: str, tensors: int, ways: _Ways) -> list[Contest]:
    found = shapes.convolutions(size, images, place.imgsz)
    return [
        Contest(shape.words().removesuffix(" silu"), tensors * shape.moved_bytes, partial(ways, place, shape), times)
        for shape, times in found.items()
        if getattr(shape, kind)
    ]


def _drawn(place: Place, *size: int, is_planes: bool = False) -> Any:
    import torch

    layout = torch.contiguous_format if is_planes else torch.channels_last
    return torch.randn(size, device=place.device, dtype=torch.bfloat16).to(memory_format=layout)


class _Normed:
    """Four numbers for each channel and what torch needs beside them."""

    def __init__(self, place: Place, channels: int) -> None:
        import torch

        self.weight, self.var = (torch.ones(channels, device=place.device) for _ in range(2))
        self.bias, self.mean = (torch.zeros(channels, device=place.device) for _ in range(2))
        self.batches = torch.zeros((), dtype=torch.long, device=place.device)

    def statistics(self, ops: Any, y: Any) -> Any:
        return ops.batch_norm_statistics(
            y, self.weight, self.bias, self.mean, self.var, self.batches, MOMENTUM, EPSILON
        )

    def by_torch(self, y: Any) -> Any:
        """Output, mean and 1 / deviation."""
        import torch

        return torch.native_batch_norm(y, self.weight, self.bias, self.mean, self.var, True, MOMENTUM, EPSILON)


def _norm_forward_ways(place: Place, shape: Norm, sets: int) -> Mapping[str, Sequence[Call]]:
    import torch
    from torch.nn import functional as F

    norm = _Normed(place, shape.channels)
    inputs = [_drawn(place, shape.images, shape.channels, shape.height, shape.width) for _ in range(sets)]
    constants = norm.statistics(place.ops, inputs[0])

    def by_torch(y: Any) -> Any:
        made = norm.by_torch(y)[0]
        return F.silu(made, inplace=True) if shape.silu else made

    def apply(y: Any, with_constants: Any) -> Any:
        out = torch.empty_like(y)
        place.ops.batch_norm_apply(y, with_constants, shape.silu, out, False)
        return out

    return {
        OTHER: [partial(by_torch, y) for y in inputs],
        OURS: [partial(lambda y: apply(y, norm.statistics(place.ops, y)), y) for y in inputs],
        STATISTICS: [partial(norm.statistics, place.ops, y) for y in inputs],
        APPLY: [partial(apply, y, constants) for y in inputs],
    }


def _norm_backward_ways(place: Place, shape: Norm, sets: int) -> Mapping[str, Sequence[Call]]:
    import torch

    norm = _Normed(place, shape.channels)
    size = shape.images, shape.channels, shape.height, shape.width
    pairs = [(_drawn(place, *size), _drawn(place, *size)) for _ in range(sets)]
    constants = norm.statistics(place.ops, pairs[0][0])
    kept = [norm.by_torch(y) for y, _ in pairs]

    def by_torch(y: Any, grad: Any, of_forward: Any) -> Any:
        normed, mean, inverse_deviation = of_forward
        grad = torch.ops.aten.silu_backward(grad, normed) if shape.silu else grad
        return torch.ops.aten.native_batch_norm_backward(
            grad, y, norm.weight, None, None, mean, inverse_deviation, True, EPSILON, [True, True, True]
        )

    return {
        OTHER: [partial(by_torch, *pair, of_forward) for pair, of_forward in zip(pairs, kept, strict=True)],
        OURS: [partial(place.ops.batch_norm_gradient, grad, y, constants, shape.silu) for y, grad in pairs],
    }


def _convolve(shape: Convolution, x: Any, weight: Any) -> Any:
    from torch.nn import functional as F

    return F.conv2d(x, weight, None, shape.stride, shape.side // 2, 1, shape.groups)


def _gradients(shape: Convolution, grad: Any, x: Any, weight: Any, needs_x: bool) -> Any:
    import torch

    pair = (shape.stride,) * 2, (shape.side // 2,) * 2, (1, 1)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, *pair, False, (0, 0), shape.groups, (needs_x, True, False)
    )


def _operands(place: Place, shape: Convolution, sets: int) -> tuple[Any, list[Any], list[Any]]:
    """(the filter, inputs, gradients of outputs)."""
    weight = _drawn(place, shape.out_channels, shape.in_channels // shape.groups, shape.side, shape.side) / shape.side
    size = shape.images, shape.in_channels, shape.height, shape.width
    inputs = [_drawn(place, *size, is_planes=shape.is_stem) for _ in range(sets)]
    made = shape.images, shape.out_channels, shape.out_height, shape.out_width
    return weight, inputs, [_drawn(place, *made) for _ in range(sets)]


def _forward_ways(
    op: str, options: tuple[Any, ...], place: Place, shape: Convolution, sets: int
) -> Mapping[str, Sequence[Call]]:
    """By our `op`, which takes pictures, weight and `options`."""
    weight, inputs, _ = _operands(place, shape, sets)
    return {
        OTHER: [partial(_convolve, shape, x, weight) for x in inputs],
        OURS: [partial(getattr(place.ops, op), x, weight, *options) for x in inputs],
    }


def _depthwise_backward_ways(place: Place, shape: Convolution, sets: int) -> Mapping[str, Sequence[Call]]:
    weight, inputs, grads = _operands(place, shape, sets)

    def by_ours(x: Any, grad: Any) -> tuple[Any, Any]:
        return place.ops.depthwise(grad, weight, True), place.ops.depthwise_weight_gradient(grad, x, weight)

    pairs = list(zip(inputs, grads, strict=True))
    return {
        OTHER: [partial(_gradients, shape, grad, x, weight, True) for x, grad in pairs],
        OURS: [partial(by_ours, *pair) for pair in pairs],
    }


def _stem_backward_ways(place: Place, shape: Convolution, sets: int) -> Mapping[str, Sequence[Call]]:
    weight, inputs, grads = _operands(place, shape, sets)
    pairs = list(zip(inputs, grads, strict=True))
    return {
        OTHER: [partial(_gradients, shape, grad, x, weight, False) for x, grad in pairs],
        OURS: [partial(place.ops.stem_weight_gradient, grad, x, weight) for x, grad in pairs],
    }


def _join_ways(place: Place, shape: Joined, sets: int) -> Mapping[str, Sequence[Call]]:
    import torch
    from torch.nn import functional as F

    def parts() -> list[Any]:
        found = []
        for channels, twice in zip(shape.channels, shape.doubled, strict=True):
            by = 2 if twice else 1
            found.append(_drawn(place, shape.images, channels, shape.height // by, shape.width // by))
        return found

    def by_torch(of_set: list[Any]) -> Any:
        grown = (
            F.interpolate(part, scale_factor=2.0, mode="nearest") if twice else part
            for part, twice in zip(of_set, shape.doubled, strict=True)
        )
        return torch.cat(list(grown), dim=1)

    buffers, terms = [parts() for _ in range(sets)], [1] * len(shape.channels)
    return {
        OTHER: [partial(by_torch, one) for one in buffers],
        OURS: [partial(place.ops.join, one, terms, list(shape.doubled)) for one in buffers],
    }
