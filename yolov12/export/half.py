# SPDX-License-Identifier: AGPL-3.0-or-later
"""float16 in an ONNX graph: the convolutions and the attention between them, and nothing of what decodes boxes.

A float16 between 512 and 1024 moves in steps of half a pixel, so all that follows the last convolution (the decoded distances, box corners, scores,
NMS) stays float32, and so do the inputs and outputs, as users expect them.

`onnxruntime.transformers.float16` (1.31) is not used: of nodes that it keeps in float32 it still rounds every result to float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
"""What a network spends its time in. Where it gives its last results begins what decodes them."""
DFL = "/dfl/"
"""In the name of the one convolution that decodes: fixed weights 0..15 that turn likelihoods into a distance (nn/modules/block.py, DFL)."""
STAY_FLOAT = {"Resize": (1, 2)}
"""Inputs that are float32 by the operator's definition: here the region of interest and the scales."""
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Converted:
    """A graph with float16 in it."""

    model: onnx.ModelProto
    half_nodes: int
    float_nodes: int
    """Nodes that compute with floats and stay float32."""
    clipped_weights: int
    """Values that no float16 can hold, set to the largest that one can."""

    def reason(self) -> str:
        """What stayed in float32 and why, in a line."""
        kept = f"{self.float_nodes} nodes after the last convolution stay float32: a float16 has steps of 0.5 px there"
        return f"{self.half_nodes} nodes in float16; {kept}" + (
            f"; {self.clipped_weights} weights were too large for float16 and are cut" if self.clipped_weights else ""
        )


def convert(model: onnx.ModelProto) -> Converted:
    """A copy of `model` that computes in float16 up to the last convolution; its inputs and outputs keep their types.

    Args:
        model: a float32 graph with one input of pictures, its nodes in topological order. Q/DQ pairs need opset 19, which knows float16 scales.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    types = _types(graph)
    half_nodes = _half_nodes(graph, types)
    floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    float_nodes = sum(
        index not in half_nodes and not floats.isdisjoint(node.output) for index, node in enumerate(graph.node)
    )
    rewriter = _Rewriter(graph, types)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        nodes += rewriter.as_half(node) if index in half_nodes else rewriter.as_float(node)
    nodes += rewriter.outputs(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the types have changed: inferred again by who needs them
    used = {name for node in graph.node for name in _names_read(node)}
    kept = [tensor for tensor in (*graph.initializer, *rewriter.halved.values()) if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    return Converted(model, len(half_nodes), float_nodes, rewriter.clipped)


def decoding_nodes(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes from which no convolution is reachable, the last convolutions excluded."""
    leads_to_weights: set[str] = set()
    decoding = set()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        is_weighted = node.op_type in WEIGHTED and DFL not in node.name
        if is_weighted or any(name in leads_to_weights for name in node.output):
            leads_to_weights.update(_names_read(node))
        else:
            decoding.add(index)
    return decoding


def _half_nodes(graph: onnx.GraphProto, types: Mapping[str, int]) -> set[int]:
    """Indices of the nodes that compute on the picture and do not decode. Arithmetic on shapes stays exact."""
    decoding = decoding_nodes(graph)
    constants = {tensor.name for tensor in graph.initializer}
    from_picture = {entry.name for entry in graph.input}
    found = set()
    for index, node in enumerate(graph.node):
        is_weight = node.op_type == "DequantizeLinear" and all(name in constants for name in node.input)
        if index not in decoding and (is_weight or any(name in from_picture for name in node.input)):
            floats = [name for name in node.output if types.get(name) in (TensorProto.FLOAT, None)]
            quantized = [name for name in node.output if types.get(name) in (TensorProto.INT8, TensorProto.UINT8)]
            if floats or quantized:
                found.add(index)
                from_picture.update(floats + quantized)
    return found


class _Rewriter:
    """Gives nodes the tensors of the type that they compute in, with a Cast at each border, one for each tensor."""

    def __init__(self, graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
        self.graph, self.types = graph, types
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.is_half: set[str] = set()
        """Tensors that nodes now give in float16."""
        self.halved: dict[str, TensorProto] = {}
        self.casts: dict[tuple[str, int], str] = {}
        self.clipped = 0

    def as_half(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """`node` with float16 inputs and outputs, after the Casts that it needs."""
        before: list[onnx.NodeProto] = []
        for place, name in enumerate(node.input):
            if not name or place in STAY_FLOAT.get(node.op_type, ()):
                continue
            if name in self.constants:
                if self.constants[name].data_type == TensorProto.FLOAT:
                    node.input[place] = self._halved(name)
            elif name not in self.is_half and self.types.get(name) == TensorProto.FLOAT:
                node.input[place] = self._cast(name, TensorProto.FLOAT16, before)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        self.is_half.update(name for name in node.output if self.types.get(name) == TensorProto.FLOAT)
        return [*before, node]

    def as_float(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """`node` with float32 inputs, after the Casts that it needs."""
        before: list[onnx.NodeProto] = []
        for place, name in enumerate(node.input):
            if name in self.is_half:
                node.input[place] = self._cast(name, TensorProto.FLOAT, before)
        return [*before, node]

    def outputs(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Casts for outputs of the graph that one of `nodes` gives in float16; the outputs keep their names."""
        casts = []
        for output in self.graph.output:
            if output.name in self.is_half:
                inner = f"{output.name}_half"
                for node in nodes:
                    for names in (node.input, node.output):
                        for place, name in enumerate(names):
                            if name == output.name:
                                names[place] = inner
                casts.append(helper.make_node("Cast", [inner], [output.name], f"{inner}_cast", to=TensorProto.FLOAT))
        return casts

    def _halved(self, name: str) -> str:
        if name not in self.halved:
            values = numpy_helper.to_array(self.constants[name])
            self.clipped += int((np.abs(values) > LARGEST).sum())
            small = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
            self.halved[name] = numpy_helper.from_array(small, f"{name}_half")
        return self.halved[name].name

    def _cast(self, name: str, to: int, before: list[onnx.NodeProto]) -> str:
        if (name, to) not in self.casts:
            result = f"{name}_{'half' if to == TensorProto.FLOAT16 else 'float'}"
            before.append(helper.make_node("Cast", [name], [result], f"{result}_cast", to=to))
            self.casts[name, to] = result
        return self.casts[name, to]


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    infos = (*graph.input, *graph.output, *graph.value_info)
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _names_read(node: onnx.NodeProto) -> list[str]:
    """What a node reads, the graphs inside it included."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*node.input, *(name for graph in inner for nested in graph.node for name in _names_read(nested))]
