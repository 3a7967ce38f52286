# SPDX-License-Identifier: AGPL-3.0-or-later
"""`trace` of model/fused without torch's compiler.

What torch itself does on `meta` tensors is made for its compiler too: it imports sympy and `torch._dynamo`, for seconds, and takes its time for
each operation. Here a line of arithmetic says the shape of what an operation makes, for those that detection models are made of and tensors as
these models have them. All others are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolov12.model.fused import trace as traced
from yolov12.model.fused.trace import Trace
from yolov12.seams import Seam

aten = torch.ops.aten

SEAMS = (
    Seam(
        "utils/_python_dispatch.py",
        209,
        "torch.utils._python_dispatch.TorchDispatchMode._should_skip_dynamo",
        "4c4485234de3",
    ),
)


def trace(model: nn.Module, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Trace:
    """As `yolov12.model.fused.trace.trace`."""
    with Arithmetic():
        return traced.trace(model, shape, dtype)


class Arithmetic(TorchDispatchMode):
    """Within it operations on `meta` tensors are done by RULES, where one has an answer."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch wraps the next method in what imports the compiler (torch/utils/_python_dispatch.py:109).
        return False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(operator)
        made = rule(*args, **kwargs) if rule else None
        return operator(*args, **kwargs) if made is None else made


def _like(
    x: Tensor, dtype: torch.dtype | None = None, device: Any = None, memory_format: Any = None, **kwargs: Any
) -> Tensor | None:
    is_meta = x.is_meta if device is None else torch.device(device).type == "meta"
    outer_first = range(x.dim()) if memory_format is torch.contiguous_format else _outer_first(x)
    if not is_meta or outer_first is None or memory_format is torch.channels_last:
        return None
    dims = [dim for dim in range(x.dim()) if dim not in outer_first] + list(outer_first)
    made = _empty([x.shape[dim] for dim in dims], dtype or x.dtype)
    return made.permute([dims.index(dim) for dim in range(x.dim())])


def _each(x: Tensor, other: Any = 0, alpha: Any = 1) -> Tensor | None:
    """Of an operation on each number by itself. The first tensor says in which order the output's dimensions lie."""
    if isinstance(other, Tensor) and (other.shape != x.shape or other.dtype is not x.dtype or not other.is_meta):
        return None
    return _like(x) if isinstance(other, Tensor | int | float) and x.is_floating_point() else None


def _in_place(x: Tensor, other: Any, **kwargs: Any) -> Tensor | None:
    return x if x.is_meta and not isinstance(other, Tensor) else None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    is_transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    if not x.is_meta or is_transposed or weight.shape[1] * groups != x.shape[1]:
        return None
    sizes = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return None if sizes is None else _empty([x.shape[0], weight.shape[0], *sizes], x.dtype)


def _batch_norm(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    if not (x.is_meta and is_in_order(x)):
        return None
    return _empty(x.shape, x.dtype), _empty(x.shape[1:2], torch.float32), _empty(x.shape[1:2], torch.float32)


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor] | None:
    sizes = _windows(x.shape[2:], kernel, stride or kernel, padding, dilation)
    if not x.is_meta or ceil_mode or sizes is None or not is_in_order(x):
        return None
    shape = [*x.shape[:2], *sizes]
    return _empty(shape, x.dtype), _empty(shape, torch.int64)


def _concatenation(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    rest = [[size for at, size in enumerate(x.shape) if at != dim % x.dim()] for x in tensors]
    fits = all(x.is_meta and x.dtype is first.dtype and is_in_order(x) for x in tensors)
    if not fits or any(sizes != rest[0] for sizes in rest):
        return None
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return _empty(shape, first.dtype)


def _enlarged(x: Tensor, size: Sequence[int], *scales: Any) -> Tensor | None:
    return _empty([*x.shape[:2], *size], x.dtype) if x.is_meta and is_in_order(x) else None


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, ...] | None:
    attended = _like(q)
    if attended is None:
        return None
    largest = _empty(q.shape[:3], torch.float32)
    random_state = _empty([2], torch.uint64), _empty([], torch.uint64)
    return attended, largest, None, None, q.shape[2], k.shape[2], *random_state, _empty([0], q.dtype)


def _product(x: Tensor, y: Tensor) -> Tensor | None:
    return _empty([*x.shape[:2], y.shape[2]], x.dtype) if x.is_meta and x.shape[2] == y.shape[1] else None


RULES: dict[Any, Callable[..., Any]] = {
    aten.empty_like.default: _like,
    aten.clone.default: _like,
    aten._to_copy.default: _like,
    aten.silu.default: _each,
    aten.relu.default: _each,
    aten.sigmoid.default: _each,
    aten.add.Tensor: _each,
    aten.mul.Tensor: _each,
    aten._softmax.default: lambda x, dim, to_float: None if to_float else _each(x),
    aten.add_.Tensor: _in_place,
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.cat.default: _concatenation,
    aten.upsample_nearest2d.default: _enlarged,
    aten.bmm.default: _product,
    aten._scaled_dot_product_flash_attention.default: _attention,
}


def is_in_order(x: Tensor) -> bool:
    """Whether a tensor, or what it is a part of, lies in memory in the order of its dimensions. What is made from it does so too."""
    outer_first = _outer_first(x)
    return outer_first is not None and outer_first == sorted(outer_first)


def _outer_first(x: Tensor) -> list[int] | None:
    """Its dimensions of more than one place in the order in which they lie in memory; None where their strides do not tell."""
    strides = {dim: stride for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)) if size != 1}
    if 0 in strides.values() or len(set(strides.values())) < len(strides):
        return None
    return sorted(strides, key=lambda dim: strides[dim], reverse=True)


def _windows(sizes: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[int] | None:
    """How many places a window has in each dimension; None where a list has another length, or there is no place."""
    if any(len(values) != len(sizes) for values in (kernel, stride, padding, dilation)):
        return None
    every = zip(sizes, kernel, stride, padding, dilation, strict=True)
    places = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in every]
    return places if min(places) > 0 else None


def _empty(shape: Any, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
