# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin's node and what is around it: its attributes, and that with the plugin's rules the graph finds what ultralytics finds.

TensorRT is not here. `EfficientNMS_TRT` below follows what plugin/efficientNMSPlugin/efficientNMSInference.cu of its public sources does with
two inputs.
"""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from ultralytics.utils.nms import non_max_suppression

from tests.unit.export.trt_stand_in import TensorRT
from yolov12.errors import UserError
from yolov12.export import boxes, efficient_nms, request
from yolov12.export.request import Suppression

CLASSES, ANCHORS = 3, 40


class EfficientNMS_TRT(OpRun):
    """The plugin, picture by picture; rows behind the count are filled with what must not be read."""

    op_domain = efficient_nms.DOMAIN

    def _run(self, at, scores, **attributes):
        assert attributes["background_class"] == -1
        assert attributes["score_activation"] == 0
        assert attributes["box_coding"] == 1
        most = attributes["max_output_boxes"]
        half = at[..., 2:] / 2
        corners = np.concatenate([at[..., :2] - half, at[..., :2] + half], -1)
        count = np.zeros((len(at), 1), np.int32)
        kept = np.full((len(at), most, 4), 7, np.float32)
        kept_scores, kept_classes = np.full((len(at), most), 7, np.float32), np.full((len(at), most), 7, np.int32)
        for image in range(len(at)):
            anchors, classes = np.nonzero(scores[image] >= attributes["score_threshold"])
            order = np.argsort(-scores[image, anchors, classes], kind="stable")[: efficient_nms.MOST_CANDIDATES]
            chosen = []
            for anchor, kind in zip(anchors[order], classes[order], strict=True):
                rivals = [a for a, c in chosen if attributes["class_agnostic"] or c == kind]
                overlaps = boxes.pairwise_iou(corners[image, [anchor]], corners[image, rivals])
                if len(chosen) < most and not (overlaps >= attributes["iou_threshold"]).any():
                    kept[image, len(chosen)] = corners[image, anchor]
                    kept_scores[image, len(chosen)] = scores[image, anchor, kind]
                    kept_classes[image, len(chosen)] = kind
                    chosen.append((anchor, kind))
            count[image] = len(chosen)
        return count, kept, kept_scores, kept_classes


def detector(classes=CLASSES, batch=2, anchors=ANCHORS):
    """A graph whose only node gives its input."""
    shape = [batch, 4 + classes, anchors]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["raw"], ["output0"])],
        "g",
        [value("raw", onnx.TensorProto.FLOAT, shape)],
        [value("output0", onnx.TensorProto.FLOAT, shape)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def predictions(seed, crowd, classes=CLASSES, batch=2, anchors=ANCHORS):
    """Boxes around a few places, so that many overlap, with scores that differ."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(50, 500, (crowd, 2))[rng.integers(0, crowd, (batch, anchors))]
    centres = places + rng.normal(0, 8, (batch, anchors, 2))
    found = np.concatenate(
        [centres, rng.uniform(40, 80, (batch, anchors, 2)), rng.random((batch, anchors, classes))], -1
    )
    return found.transpose(0, 2, 1).astype(np.float32)


def suppressed(raw, suppression):
    model = efficient_nms.appended(detector(raw.shape[1] - 4, len(raw), raw.shape[2]), suppression)
    return ReferenceEvaluator(model, new_ops=[EfficientNMS_TRT]).run(None, {"raw": raw})[0]


# The same draws each time: in one of some hundred, ultralytics' offsets by class round an overlap to the other side of the threshold.
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.sampled_from([0.05, 0.4, 0.9]),
    st.sampled_from([0.3, 0.7]),
    st.booleans(),
    st.sampled_from([3, 300]),
)
def test_the_boxes_are_those_of_ultralytics(seed, crowd, conf, iou, agnostic, max_det):
    raw = predictions(seed, crowd)
    got = suppressed(raw, Suppression(conf, iou, max_det, agnostic))
    assert got.shape == (2, max_det, 6)
    expected = non_max_suppression(torch.from_numpy(raw), conf, iou, agnostic=agnostic, max_det=max_det)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs.numpy(), atol=1e-4)
        assert not ours[len(theirs) :, 4].any()


def test_a_model_of_one_class_keeps_it():
    raw = predictions(0, 3, classes=1)
    (theirs, _) = non_max_suppression(torch.from_numpy(raw), 0.25, 0.7)
    np.testing.assert_allclose(suppressed(raw, Suppression())[0, : len(theirs)], theirs.numpy(), atol=1e-4)


def test_ultralytics_reads_the_output_as_that_of_a_model_that_suppresses_by_itself():
    got = suppressed(predictions(1, 3), Suppression(max_det=10))
    rows = non_max_suppression(torch.from_numpy(got), 0.5)
    assert all((row[:, 4] > 0.5).all() and len(row) for row in rows)


def test_the_node_has_every_attribute_and_no_more():
    model = efficient_nms.appended(detector(), Suppression(0.3, 0.6, 50, agnostic=True))
    (node,) = (node for node in model.graph.node if node.op_type == "EfficientNMS_TRT")
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes == {
        "plugin_version": b"1",
        "background_class": -1,
        "score_threshold": pytest.approx(0.3),
        "iou_threshold": pytest.approx(0.6),
        "max_output_boxes": 50,
        "score_activation": 0,
        "class_agnostic": 1,
        "box_coding": 1,
    }
    assert (len(node.input), len(node.output)) == (2, 4)


@pytest.mark.parametrize("batch", [4, "batch"])
def test_one_output_of_the_same_name_is_left(batch):
    source = detector(batch=batch)
    before = source.SerializeToString()
    (output,) = efficient_nms.appended(source, Suppression(max_det=50)).graph.output
    sides = [side.dim_value or side.dim_param for side in output.type.tensor_type.shape.dim]
    assert (output.name, sides) == ("output0", [batch, 50, 6])
    assert source.SerializeToString() == before


def test_a_real_graph_takes_the_node(exported):
    model = efficient_nms.appended(onnx.load(exported), Suppression())
    names = [name for node in model.graph.node for name in node.output]
    assert len(names) == len(set(names))
    assert names[-1] == "output0"


class Network:
    def __init__(self, task="detect", end2end=False):
        self.task, self.end2end = task, end2end


def without_plugin():
    trt = TensorRT()
    trt.plugins = ()
    return trt


@pytest.mark.parametrize(
    ("trt", "options", "network", "words"),
    [
        (TensorRT(), {}, Network(), ""),
        (TensorRT(), {}, None, ""),
        (TensorRT(), {}, Network("segment"), "a model for segment gives more than boxes"),
        (TensorRT(), {}, Network(end2end=True), "its head suppresses by itself"),
        (TensorRT("tensorrt_rtx", "1.7"), {}, Network(), "TensorRT-RTX has no plugins"),
        (
            TensorRT(),
            {"version_compatible": True},
            Network(),
            "version_compatible=True: the lean runtime has no plugins",
        ),
        (without_plugin(), {}, Network(), "TensorRT 11.4.0 has no EfficientNMS_TRT"),
    ],
)
def test_where_the_plugin_can_not_be_the_reason_is_told(trt, options, network, words):
    asked = request.of({"format": "engine", "nms": True} | options)
    assert efficient_nms.why_not(trt, asked, network) == words


def test_tensorrt_rtx_can_not_suppress_at_all_unless_the_head_does():
    trt, asked = TensorRT("tensorrt_rtx", "1.7"), request.of({"format": "engine", "nms": True})
    with pytest.raises(
        UserError, match="nms=True needs TensorRT proper, and TensorRT-RTX is what builds here: leave nms out"
    ):
        efficient_nms.check(trt, asked, Network())
    efficient_nms.check(trt, asked, Network(end2end=True))
    efficient_nms.check(trt, request.of({"format": "engine"}), Network())
    efficient_nms.check(TensorRT(), asked, Network())


def test_thresholds_are_as_upstream_has_them():
    assert request.of({"format": "engine"}).nms is None
    assert request.of({"format": "engine", "nms": True}).nms == Suppression(0.25, 0.7, 300, False)
    typed = {"conf": 0.1, "iou": 0.5, "max_det": 20, "agnostic_nms": True}
    assert request.of({"format": "onnx", "nms": True} | typed).nms == Suppression(0.1, 0.5, 20, True)
