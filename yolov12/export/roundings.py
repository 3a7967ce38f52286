# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does each layer of a float16 graph do no more than round? Judged by itself, on what the graph itself gives it.

Boxes and scores are no measure for a single layer: a trained network may have a convolution that is wrong by a fifth, and none of them moves by what
float16 is allowed. Nor is how far a layer's result lies from the source's, since roundings add up along the network, and in one that is not trained
to any size. But from the same input a layer differs by three roundings at most, of its weights, its bias and its result, and these have a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolov12.export.adapter import as_exported
from yolov12.export.divergence import graph_results, scope
from yolov12.export.parity import ParityError

ALLOWED = 2.0**-9
"""Largest share of its terms' magnitudes that a result may be off by. A rounding to float16 is 2^-11 of a value at most; those of the weights and the
bias make 2^-11 of the terms together, that of the result as much again. The other half is for float32 sums, of up to 8,192 terms."""
SMALLEST = float(np.finfo(np.float16).tiny)
"""Below, float16 has steps of one size: a value there is rounded as this one is."""
KINDS: dict[str, type[nn.Module]] = {"Conv": nn.Conv2d, "ConvTranspose": nn.ConvTranspose2d}


class LayerError(ParityError):
    """A layer does more than round; the message names it."""


@dataclass(frozen=True)
class Layer:
    """A convolution in the graph against the source's own of the graph's input."""

    node: str
    off: float
    """Largest difference, as a share of what the terms of that result add up to without their signs; NaN where one of them is, infinite for another
    shape."""


def require_rounded(source: nn.Module, graph: onnx.ModelProto, pixels: np.ndarray) -> list[Layer]:
    """All convolutions that both have, none of which does more than round.

    Args:
        source: the PyTorch network.
        graph: what was exported from it in float16, made to round on the CPU (rounded.emulated).
        pixels: (batch, channels, height, width) float32, as the graph takes them.

    Raises:
        LayerError: names the first that does.
    """
    layers = list(_layers(source, graph, pixels))
    wrong = [layer for layer in layers if not layer.off <= ALLOWED]  # also NaN
    if wrong:
        raise LayerError(
            f"The exported model does not compute what its source does: {wrong[0].node} is off by {wrong[0].off:.2g} of its terms, and rounding to "
            f"float16 explains {ALLOWED:.2g} ({len(wrong)} of {len(layers)} convolutions are)."
        )
    return layers


def _layers(source: nn.Module, graph: onnx.ModelProto, pixels: np.ndarray) -> Iterator[Layer]:
    network: Any = as_exported(source)
    network = network.fuse(verbose=False)
    norms = _norms_behind(network, pixels)
    modules = {name: _folded(module, norms) for name, module in network.named_modules()}
    halves = _halves(graph)
    both = [
        (node, module)
        for node in graph.graph.node
        if isinstance(module := modules.get(scope(node.name)), KINDS.get(node.op_type, ()))
    ]
    inputs = [halves.get(node.input[0], node.input[0]) for node, _ in both]
    results = [halves.get(node.output[0], node.output[0]) for node, _ in both]
    names = list(dict.fromkeys((*inputs, *results)))
    maps = dict(zip(names, graph_results(graph, names, pixels), strict=True))
    with torch.inference_mode():
        for (node, module), taken, given in zip(both, inputs, results, strict=True):
            x, found = (torch.from_numpy(maps[name]).float() for name in (taken, given))
            yield Layer(node.name, _off(module, x, found))


def _norms_behind(network: nn.Module, pixels: np.ndarray) -> dict[nn.Module, nn.BatchNorm2d]:
    """The batch norms that are left directly behind a convolution, by that. torch's exporter folds them in, where ultralytics' fuse knows its own."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    found: dict[nn.Module, nn.BatchNorm2d] = {}
    last: list[Any] = [None, None]  # a norm directly behind a convolution is what runs next

    def given(module: nn.Module, inputs: object, output: Tensor) -> None:
        last[:] = output, module

    def taken(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0] is last[0]:
            found[last[1]] = norm

    hooks = [
        module.register_forward_hook(given)
        for module in network.modules()
        if norms and isinstance(module, tuple(KINDS.values()))
    ]
    hooks += [norm.register_forward_pre_hook(taken) for norm in norms]
    with torch.inference_mode():
        if norms:
            network(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    return found


def _folded(module: Any, norms: Mapping[nn.Module, nn.BatchNorm2d]) -> Any:
    if module not in norms:
        return module
    return fuse_conv_bn_eval(module, norms[module], transpose=isinstance(module, nn.ConvTranspose2d))


def _halves(graph: onnx.ModelProto) -> dict[str, str]:
    """Tensors on both sides of a rounding -> the float16 between, which takes half of the memory that the maps of a network need."""
    casts = [
        (node.attribute[0].i, node.input[0], node.output[0]) for node in graph.graph.node if node.op_type == "Cast"
    ]
    before = {taken: given for to, taken, given in casts if to == TensorProto.FLOAT16}
    rounded = set(before.values())
    return before | {given: taken for _, taken, given in casts if taken in rounded}


def _off(module: Any, x: Tensor, given: Tensor) -> float:
    expected = module(x)
    if expected.shape != given.shape:
        return float("inf")
    without_signs = {name: value.abs() for name, value in module.named_parameters()}
    without_signs["weight"] = without_signs["weight"] + SMALLEST
    terms = torch.func.functional_call(module, without_signs, (x.abs(),)) + SMALLEST
    return float(((given - expected).abs() / terms).max())
