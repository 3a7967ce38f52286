# SPDX-License-Identifier: AGPL-3.0-or-later
"""float16 in graphs that are small enough to read."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from yolov12.export import half, rounded

GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[1, 1, 4, 4] images) => (float[1, 2, 8, 8] output0)
  <float[2, 1, 1, 1] weight = {0.5, 2.0}, float[4] scales = {1.0, 1.0, 2.0, 2.0}, float[2, 2, 1, 1] last = {1.0, 0.0, 0.0, 1.0},
   float pixels = {8.0}>
{
  [first] a = Conv (images, weight)
  [resize] b = Resize (a, , scales)
  [last] c = Conv (b, last)
  [decode] d = Sigmoid (c)
  [scale] output0 = Mul (d, pixels)
}
"""


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.fixture
def graph():
    return onnx.parser.parse_model(GRAPH)


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((1, 1, 4, 4), np.float32)


def types(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}


def test_what_leads_to_a_convolution_is_float16_and_what_decodes_is_float32(graph):
    found = half.convert(graph)
    kinds = types(found.model)
    assert [kinds[name] for name in "abc"] == [TensorProto.FLOAT16] * 3
    assert kinds["d"] == TensorProto.FLOAT
    assert (found.half_nodes, found.float_nodes, found.clipped_weights) == (3, 2, 0)
    assert "2 nodes after the last convolution stay float32" in found.reason()


def test_results_are_those_of_the_source_up_to_rounding(graph, picture):
    expected = run(graph, images=picture)
    got = run(rounded.emulated(half.convert(graph).model), images=picture)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() < 5e-3


def test_no_result_is_rounded_to_float16_after_the_last_convolution(graph, picture):
    """8 * sigmoid lies between 4 and 8, where a float16 has steps of 1/256."""
    got = run(rounded.emulated(half.convert(graph).model), images=picture)
    assert not np.array_equal(got, got.astype(np.float16).astype(np.float32))


def test_a_result_beyond_what_float16_holds_is_infinite_as_on_a_gpu():
    """ONNX Runtime's CPU gives 70,000 for the file itself."""
    graph = onnx.parser.parse_model("""
<ir_version: 8, opset_import: ["" : 18]>
net (float[1, 1, 1, 1] images) => (float[1, 1, 1, 1] output0) <float[1, 1, 1, 1] large = {7000.0}, float[1, 1, 1, 1] small = {0.1}>
{
  a = Conv (images, large)
  b = Conv (a, small)
  output0 = Neg (b)
}
""")
    model = half.convert(graph).model
    ten = np.full((1, 1, 1, 1), 10, np.float32)
    assert rounded.has_half(model)
    assert not rounded.has_half(graph)
    assert run(rounded.emulated(model), images=ten)[0, 0, 0, 0] == -np.inf


def test_what_an_operator_wants_in_float32_stays_so(graph):
    kinds = {tensor.name: tensor.data_type for tensor in half.convert(graph).model.graph.initializer}
    assert kinds == {
        "weight_half": TensorProto.FLOAT16,
        "scales": TensorProto.FLOAT,
        "last_half": TensorProto.FLOAT16,
        "pixels": TensorProto.FLOAT,
    }


def test_one_cast_in_and_one_cast_out(graph):
    casts = [node for node in half.convert(graph).model.graph.node if node.op_type == "Cast"]
    assert [(cast.input[0], cast.output[0]) for cast in casts] == [("images", "images_half"), ("c", "c_float")]


def test_the_graph_that_was_given_is_not_changed(graph):
    before = graph.SerializeToString()
    half.convert(graph)
    assert graph.SerializeToString() == before


def test_a_weight_that_no_float16_holds_is_cut_and_told(graph, picture):
    (weight,) = (tensor for tensor in graph.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(np.array([1e6, 1], np.float32).reshape(2, 1, 1, 1), "weight"))
    found = half.convert(graph)
    assert found.clipped_weights == 1
    assert "1 weights were too large" in found.reason()


def test_arithmetic_on_shapes_stays_exact():
    """4097 is no float16."""
    graph = onnx.parser.parse_model("""
<ir_version: 8, opset_import: ["" : 18]>
net (float[1, 1, 1, W] images) => (float[1, 1, 1, V] output0) <float[1, 1, 1, 1] weight = {1.0}>
{
  shape = Shape (images)
  real = Cast <to = 1> (shape)
  whole = Cast <to = 7> (real)
  reshaped = Reshape (images, whole)
  output0 = Conv (reshaped, weight)
}
""")
    picture = np.ones((1, 1, 1, 4097), np.float32)
    assert run(half.convert(graph).model, images=picture).shape == (1, 1, 1, 4097)


def test_an_output_that_a_convolution_gives_is_float32_under_its_own_name():
    graph = onnx.parser.parse_model("""
<ir_version: 8, opset_import: ["" : 18]>
net (float[1, 1, 2, 2] images) => (float[1, 1, 2, 2] output0, float[1, 1, 2, 2] output1) <float[1, 1, 1, 1] weight = {2.0}>
{
  output0 = Conv (images, weight)
  output1 = Relu (output0)
}
""")
    model = half.convert(graph).model
    assert [output.name for output in model.graph.output] == ["output0", "output1"]
    assert run(model, images=np.ones((1, 1, 2, 2), np.float32)).dtype == np.float32


def test_int8_weights_are_dequantized_to_float16():
    graph = onnx.parser.parse_model("""
<ir_version: 9, opset_import: ["" : 19]>
net (float[1, 1, 2, 2] images) => (float[1, 1, 2, 2] output0)
  <float scale = {0.5}, int8 zero = {0}, int8[1, 1, 1, 1] weight = {4}>
{
  q = QuantizeLinear (images, scale, zero)
  x = DequantizeLinear (q, scale, zero)
  w = DequantizeLinear (weight, scale, zero)
  c = Conv (x, w)
  output0 = Relu (c)
}
""")
    found = half.convert(graph)
    assert (found.half_nodes, found.float_nodes) == (4, 1)
    np.testing.assert_array_equal(
        run(found.model, images=np.ones((1, 1, 2, 2), np.float32)), np.full((1, 1, 2, 2), 2.0)
    )


def test_a_whole_network_loads_and_is_half_as_large(exported):
    source = onnx.load(exported)
    found = half.convert(source)
    assert found.model.ByteSize() < 0.6 * source.ByteSize()
    picture = np.random.default_rng(0).random((1, 3, 96, 96), np.float32)
    scores = slice(4, None)
    expected, got = run(source, images=picture), run(found.model, images=picture)
    assert np.abs(expected - got)[:, scores].max() < 0.01
