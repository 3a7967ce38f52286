# SPDX-License-Identifier: AGPL-3.0-or-later
"""float16 graphs whose layers round, and graphs with one layer that does not compute what its source does."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.unit.export.lively import lively_model
from yolov12.export import gate, half, parity, rounded, roundings
from yolov12.export import onnx as exports


@pytest.fixture(scope="module")
def halved(exported):
    return half.convert(onnx.load(exported)).model


@pytest.fixture
def pixels():
    return np.random.default_rng(0).random((1, 3, 96, 96), np.float32)


def spoiled(graph, module, change):
    """A copy in which the numbers of one convolution are changed, and the node that it is."""
    graph = copy.deepcopy(graph)
    (node,) = [one for one in graph.graph.node if one.op_type == "Conv" and f".{module}".endswith(name_of(one))]
    (tensor,) = [one for one in graph.graph.initializer if one.name == node.input[1]]
    weights = numpy_helper.to_array(tensor).copy()
    change(weights)
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return graph, node.name


def name_of(node):
    return f".{roundings.scope(node.name)}"


def judged(model, graph, pixels):
    return roundings.require_rounded(model.model, rounded.emulated(copy.deepcopy(graph)), pixels)


def test_what_rounds_passes_however_much_the_network_amplifies_it(model, halved, pixels):
    """The outputs of an untrained network lie far apart; each layer by itself is within what rounding can do, with half to spare."""
    layers = judged(model, halved, pixels)
    assert len(layers) == 120
    assert 2**-12 < max(layer.off for layer in layers) < roundings.ALLOWED / 2


@pytest.mark.parametrize("name", ["yolo11n-seg.yaml", "yolov8n-pose.yaml", "yolo26n.yaml"])
def test_so_it_is_for_other_networks(name, tmp_path, pixels):
    other = lively_model(0, name)
    graph = half.convert(onnx.load(exports.export(other, tmp_path / "other.onnx", imgsz=96, verify=False))).model
    layers = judged(other, graph, pixels)
    assert len(layers) == sum(node.op_type in roundings.KINDS for node in graph.graph.node)


def test_a_batch_norm_that_torchs_exporter_folds_in_is_folded_in_here_too(tmp_path, pixels):
    """As behind RT-DETR's `input_proj`, which ultralytics' fuse leaves."""
    other = lively_model(0)
    first = other.model.model[0]
    plain = nn.Sequential(first.conv, first.bn)
    plain.i, plain.f, plain.type, plain.np = first.i, first.f, first.type, first.np
    other.model.model[0] = plain
    graph = half.convert(onnx.load(exports.export(other, tmp_path / "other.onnx", imgsz=96, verify=False))).model
    assert all(node.op_type != "BatchNormalization" for node in graph.graph.node)
    assert len(judged(other, graph, pixels)) == 120


def by_a_fifth(weights):
    weights *= np.float16(1.2)


def in_one_channel(weights):
    weights[-1] *= np.float16(1.2)


def transposed(weights):
    weights[:] = weights[::-1].copy()


@pytest.mark.parametrize("change", [by_a_fifth, in_one_channel, transposed])
@pytest.mark.parametrize(
    "module",
    [
        "model.0.conv",
        "model.4.m.0.cv1.conv",
        "model.6.m.0.0.attn.pe.conv",
        "model.8.m.1.0.attn.proj.conv",
        "model.21.cv2.2.2",
        "model.21.cv3.0.2",
    ],
)
def test_one_convolution_that_is_wrong_is_named(model, halved, pixels, module, change):
    graph, node = spoiled(halved, module, change)
    with pytest.raises(parity.ParityError, match=rf"{node} is off by .* \(1 of 120 convolutions are\)\.$"):
        judged(model, graph, pixels)


def test_a_wrong_stride_and_a_number_that_is_none_are_told(model, halved, pixels):
    graph, node = spoiled(halved, "model.21.cv3.0.2", lambda weights: weights.fill(np.nan))
    with pytest.raises(parity.ParityError, match=f"{node} is off by nan of its terms"):
        judged(model, graph, pixels)
    conv = nn.Conv2d(3, 4, 3, stride=2)
    assert roundings._off(conv, torch.rand(1, 3, 8, 8), torch.rand(1, 4, 6, 6)) == np.inf


def test_what_is_too_small_for_float16_is_rounded_as_its_smallest_numbers_are():
    conv = nn.Conv2d(1, 1, 1).requires_grad_(False)
    conv.weight[:], conv.bias[:] = 1e-8, 0
    assert roundings._off(conv, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)) < roundings.ALLOWED


def test_the_gate_tells_of_it_and_refuses_what_boxes_and_scores_do_not_show(model, halved, loose, tmp_path):
    """`loose` allows boxes and scores anything, as a trained network's do not show a fault like this."""
    onnx.save(halved, tmp_path / "right.onnx")
    case = gate.Case(model.model, tmp_path / "right.onnx", "onnx", "fp16", (96, 96))
    assert gate.verify(case)[1].startswith("parity: 120 convolutions, each by itself, off by ")
    graph, node = spoiled(halved, "model.6.m.0.0.attn.pe.conv", by_a_fifth)
    onnx.save(graph, tmp_path / "right.onnx")
    with pytest.raises(parity.ParityError, match=rf"^The exported model does not .*{node} .* convolutions are\)\.$"):
        gate.verify(case)
