# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where an exported graph leaves its source: the first convolution whose result differs.

Between two convolutions lie a few cheap operations, so the node that is named, and what feeds it, is where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from yolov12.export.adapter import as_exported

ALLOWED = {"fp32": 1e-3, "fp16": 0.03, "int8": 1.5}
"""Largest difference of a convolution's result over its largest value. Rounding adds up along the network; another computation is far above."""


@dataclass(frozen=True)
class Step:
    """One convolution in both."""

    node: str
    relative: float
    """Largest difference over the source's largest value; NaN where the export has a NaN, infinite for another shape."""


def describe(source: torch.nn.Module, model: onnx.ModelProto, pixels: np.ndarray, precision: str) -> str:
    """A sentence that names the first convolution that differs.

    Args:
        source: the PyTorch network.
        model: what was exported from it.
        pixels: (batch, channels, height, width) float32, as the graph takes them.
        precision: of the export, one of `ALLOWED`.
    """
    found = steps(source, model, pixels)
    allowed = ALLOWED[precision]
    for place, step in enumerate(found):
        if not step.relative <= allowed:
            before = f"the {place} before it agree" if place else "none lies before it"
            return f"the first convolution that differs is {step.node}, by {step.relative:.2g} of its largest value (allowed {allowed:g}); {before}"
    if not found:
        return "no node of the graph has the name of a convolution of the model"
    worst = max(found, key=lambda step: step.relative)
    return (
        f"all {len(found)} convolutions agree ({worst.node} least, by {worst.relative:.2g} of its largest value, allowed {allowed:g}), so it "
        "differs in what decodes their results, or by roundings that add up"
    )


def steps(source: torch.nn.Module, model: onnx.ModelProto, pixels: np.ndarray) -> list[Step]:
    """All convolutions that both have, in the order in which the graph computes them."""
    expected = _source_results(source, pixels)
    nodes = [(node, scope(node.name)) for node in model.graph.node if node.op_type == "Conv"]
    common = [(node, name) for node, name in nodes if name in expected]
    got = graph_results(model, [node.output[0] for node, _ in common], pixels)
    return [Step(node.name, _relative(expected[name], array)) for (node, name), array in zip(common, got, strict=True)]


def scope(node_name: str) -> str:
    """The module that a node comes from: `/model.6/m.0/m.0.0/attn/qkv/conv/Conv` is `model.6.m.0.0.attn.qkv.conv`.

    A container's name is repeated by what is in it (`m.0/m.0.0`). A wrapper around the model, as for NMS, puts `model` in front.
    """
    parts: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def _source_results(source: torch.nn.Module, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What each convolution of the source gives, with its batch norm folded in, as the exporter does it (engine/exporter.py:861)."""
    network: Any = as_exported(source)
    network = network.fuse(verbose=False)
    results: dict[str, np.ndarray] = {}
    names: dict[torch.nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)
    }

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        results[names[module]] = output.numpy().copy()  # the activation after it works in place

    for module in names:
        module.register_forward_hook(keep)
    with torch.inference_mode():
        network(torch.from_numpy(pixels))
    return results


def graph_results(model: onnx.ModelProto, tensors: list[str], pixels: np.ndarray) -> list[np.ndarray]:
    """What these tensors of a graph are for (batch, channels, height, width) float32, computed on the CPU."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(tensors, {session.get_inputs()[0].name: pixels}) if tensors else []


def _relative(expected: np.ndarray, got: np.ndarray) -> float:
    if expected.shape != got.shape:
        return float("inf")
    return float(np.abs(got.astype(np.float32) - expected).max() / max(float(np.abs(expected).max()), 1e-12))
