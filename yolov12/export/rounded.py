# SPDX-License-Identifier: AGPL-3.0-or-later
"""A float16 graph as a GPU computes it, on a CPU: float32 arithmetic, and every result rounded to float16.

ONNX Runtime's CPU provider has no float16 convolution. It computes such graphs in float32 and drops the roundings between ("precision-free" casts).
What it gives for the file itself says nothing about float16: neither how much is lost nor whether something exceeds 65504 and becomes infinite.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def has_half(model: onnx.ModelProto) -> bool:
    """Whether anything in the graph is float16."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 copy of a float16 graph in which each float16 result passes through float16; float32 nodes stay as they are."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.output, *graph.value_info)}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        for place, name in enumerate(node.output):
            if kinds.get(name) == TensorProto.FLOAT16:
                exact, rounded = f"{name}_exact", f"{name}_rounded"
                node.output[place] = exact
                nodes.append(helper.make_node("Cast", [exact], [rounded], rounded, to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [rounded], [name], f"{name}_back", to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT16:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    return model
