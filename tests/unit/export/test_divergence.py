# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where an exported graph leaves its source: a graph with one wrong weight."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from yolov12.export import divergence, gate, parity

CULPRIT = "/model.6/m.0/m.0.1/attn/proj/conv/Conv"


@pytest.fixture
def pixels():
    return np.random.default_rng(0).random((1, 3, 96, 96), np.float32)


def spoiled(exported, path):
    """The file with one weight of `CULPRIT` changed."""
    model = onnx.load(exported)
    (tensor,) = (t for t in model.graph.initializer if t.name == "model.6.m.0.1.attn.proj.conv.weight")
    weights = numpy_helper.to_array(tensor).copy()
    weights[3] += 1
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/model.0/conv/Conv", "model.0.conv"),
        ("/model.21/cv3.2/cv3.2.0/cv3.2.0.0/conv/Conv", "model.21.cv3.2.0.0.conv"),
        (CULPRIT, "model.6.m.0.1.attn.proj.conv"),
        ("/model.20/m.0/m/m.0/cv2/conv/Conv", "model.20.m.0.m.0.cv2.conv"),
    ],
)
def test_a_node_is_named_after_its_module(node, module):
    assert divergence.scope(node) == module


def test_every_convolution_is_found_and_agrees(model, exported, pixels):
    found = divergence.steps(model.model, onnx.load(exported), pixels)
    assert len(found) == 120
    assert max(step.relative for step in found) < 1e-4
    said = divergence.describe(model.model, onnx.load(exported), pixels, "fp32")
    assert said.startswith("all 120 convolutions agree (/model.")
    assert said.endswith(" allowed 0.001), so it differs in what decodes their results, or by roundings that add up")


def test_the_first_convolution_that_differs_is_named(model, exported, pixels, tmp_path):
    wrong = onnx.load(spoiled(exported, tmp_path / "wrong.onnx"))
    said = divergence.describe(model.model, wrong, pixels, "fp32")
    assert said.startswith(f"the first convolution that differs is {CULPRIT}, by ")
    assert said.endswith("; the 20 before it agree")


def test_the_gate_fails_with_the_numbers_and_the_place(model, exported, tmp_path):
    path = spoiled(exported, tmp_path / "wrong.onnx")
    case = gate.Case(model.model, path, "onnx", "fp32", (96, 96))
    with pytest.raises(parity.ParityError, match=rf"output0 by .* The first convolution that differs is {CULPRIT}"):
        gate.verify(case)


def test_a_worse_map_is_told_with_the_place_too(model, exported, tmp_path):
    maps = iter([50.0, 49.6])
    case = gate.Case(model.model, exported, "onnx", "fp32", (96, 96), evaluate=lambda file, imgsz: next(maps))
    with pytest.raises(parity.ParityError, match=r"worse .*: mAP50-95 50\.00 -> 49\.60 .* All 120 convolutions agree"):
        gate.verify(case)


@pytest.mark.parametrize(
    ("form", "words"),
    [("engine", "they part in TensorRT"), ("aoti", "can not be read from aoti; format=onnx names the layer")],
)
def test_of_what_can_not_be_looked_into_it_is_said_what_tells_more(model, exported, monkeypatch, form, words):
    monkeypatch.setattr(gate, "open_backend", lambda case: (_ for _ in ()).throw(parity.ParityError("Differs.")))
    with pytest.raises(parity.ParityError, match=rf"^Differs\. .*{words}"):
        gate.verify(gate.Case(model.model, exported, form, "fp32", (96, 96)))


def test_a_graph_of_something_else_has_no_convolution_in_common(model, pixels):
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,96,96] images) => (float[1,3,96,96] y) { y = Relu (images) }'
    )
    assert divergence.describe(model.model, graph, pixels, "fp32").startswith("no node of the graph")
