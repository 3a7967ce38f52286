# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a model keeps between forward and backward, found by running its forward on shapes alone.

Takes seconds of one CPU core and no memory of the device: torch's `meta` tensors have a shape and a dtype, and no data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from yolov12.errors import UserError
from yolov12.model.attention import kernels
from yolov12.model.attention.backends import Kernel
from yolov12.model.attention.dispatch import describe, replaced_by
from yolov12.model.fused.conv import Call, Keep, OutputOf, Watcher, choosing, watched_by
from yolov12.model.fused.lineage import Kept, leaves
from yolov12.model.loss.levels import Levels


@dataclass(frozen=True)
class Convolution:
    """One call of a `Conv`, in the order of forward."""

    name: str
    """Of the module."""
    input_bytes: int
    output_bytes: int
    """Of the convolution."""
    weight_bytes: int
    """Of the copy that autocast makes of its weight; 0 where there is none."""
    gradient_bytes: int
    """Of its weight's gradient, once backward has made it."""
    operations: int
    """Multiplications and additions of the convolution."""
    inputs: tuple[int, ...]
    """Positions of the calls that its input is made from."""
    input_can_be_rebuilt: bool


@dataclass(frozen=True)
class Trace:
    """A training step's forward, all `Conv`s at Keep.CONVOLUTION."""

    convolutions: tuple[Convolution, ...]
    others: tuple[tuple[int, int], ...]
    """What else is kept: the images, what attention keeps, the inputs of layers that are no `Conv`, sums of sums. For each the number of
    calls before it, and its bytes."""
    output_elements: int
    """Numbers that the model puts out, from which the loss is computed."""
    images: int
    level_bytes: int = 0
    """Of boxes and scores, where the head leaves them level by level as our loss kernels take them; 0 for other heads."""

    def of_images(self, images: int) -> Trace:
        """The same for another number of images: everything but the weights grows with it."""

        def scaled(size: int) -> int:
            return size * images // self.images

        convolutions = tuple(
            replace(
                call,
                input_bytes=scaled(call.input_bytes),
                output_bytes=scaled(call.output_bytes),
                operations=scaled(call.operations),
            )
            for call in self.convolutions
        )
        others = tuple((calls, scaled(size)) for calls, size in self.others)
        return Trace(convolutions, others, scaled(self.output_elements), images, scaled(self.level_bytes))


@dataclass
class _Recorder(Watcher):
    names: dict[nn.Module, str]
    calls: dict[int, int] = field(default_factory=dict)
    """id of a call -> its position"""
    alive: list[Call] = field(default_factory=list)
    found: list[Convolution] = field(default_factory=list)
    kept: dict[int, tuple[int, torch.UntypedStorage]] = field(default_factory=dict)
    """By address, with the number of calls before. They stay alive, so that no other gets the address of one."""

    def made(self, module: Conv, call: Call, output: Tensor) -> None:
        assert call.source is not None
        assert call.weight is not None
        ends = list(leaves(call.source))
        for end in ends:
            if isinstance(end, Kept):
                self.keep(end.tensor)
        inputs = {self.calls[id(end.call)] for end in ends if isinstance(end, OutputOf)}
        self.calls[id(call)] = len(self.found)
        self.alive.append(call)
        input_bytes = call.shape.numel() * output.element_size()
        self.found.append(
            Convolution(
                name=self.names[module],
                input_bytes=input_bytes,
                output_bytes=output.nbytes,
                weight_bytes=0 if call.weight.dtype is torch.float32 else call.weight.nbytes,
                gradient_bytes=4 * call.weight.numel() if call.weight.requires_grad else 0,
                operations=2 * output.numel() * call.weight[0].numel(),
                inputs=tuple(sorted(inputs)),
                input_can_be_rebuilt=bool(inputs),
            )
        )

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.kept.setdefault(storage._cdata, (len(self.found), storage))
        return tensor


def trace(model: nn.Module, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Trace:
    """Follow one forward pass.

    Args:
        model: a detection model of ultralytics as it is trained, frozen layers in evaluation; it is not touched.
        shape: of the images, (images, channels, height, width).
        dtype: that convolutions compute in.
    """
    copied = _on_meta(model, dtype)
    recorder = _Recorder({module: name for name, module in copied.named_modules()})
    weights = {tensor.untyped_storage()._cdata for tensor in (*copied.parameters(), *copied.buffers())}
    keep = {module: Keep.CONVOLUTION for module in copied.modules() if isinstance(module, Conv)}
    with (
        replaced_by(_attention(next(model.parameters()).device, dtype)),
        choosing(keep),
        watched_by(recorder),
        torch.autograd.graph.saved_tensors_hooks(recorder.keep, lambda tensor: tensor),
        torch.enable_grad(),
    ):
        output = copied(torch.empty(shape, dtype=dtype, device="meta"))
    others = tuple((calls, kept.nbytes()) for address, (calls, kept) in recorder.kept.items() if address not in weights)
    output_elements = sum(tensor.numel() for tensor in _tensors(output) if tensor.requires_grad)
    levels = [*output.boxes, *output.scores] if isinstance(output, Levels) else []
    level_bytes = sum(level.nbytes for level in levels)
    return Trace(tuple(recorder.found), others, output_elements, shape[0], level_bytes)


def _attention(device: torch.device, dtype: torch.dtype) -> Kernel:
    """What keeps as much as the backend that will run."""
    try:
        backend, _ = describe(device, dtype, training=True)
    except UserError:  # the one that was asked for can not serve: models without attention train all the same
        backend = ""
    # Every fused kernel keeps the same: q, k, v, the output and a number for each row.
    return _plain_under_autocast if backend == "plain" else kernels.sdpa_flash


def _plain_under_autocast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`kernels.plain`, with the casts that autocast makes: softmax in float32, and its result once more in the other type."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores.float().softmax(dim=-1).to(q.dtype) @ v).transpose(1, 2)


def _on_meta(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy without data: the memo of deepcopy holds a stand-in for each parameter and buffer, so that none is copied on the device."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        stand_in = torch.empty_like(parameter, device="meta", dtype=dtype)
        memo[id(parameter)] = nn.Parameter(stand_in, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Levels):
        yield from _tensors([output.boxes, output.scores, output["feats"]])
    elif isinstance(output, (dict, list, tuple)):
        for value in output.values() if isinstance(output, dict) else output:
            yield from _tensors(value)
