# SPDX-License-Identifier: AGPL-3.0-or-later
"""A file that suppresses by itself against its source: for a network full of ties, for one that finds turned boxes, and for files that differ."""

import dataclasses

import numpy as np
import onnx as onnx_files
import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

from tests.unit.export.lively import lively_model
from yolov12.export import boxes, gate, onnx, parity, suppressed
from yolov12.export.candidates import Room
from yolov12.export.request import Suppression

ROOM = Room(least_iou=0.99, score=0.001)
CROWDED = Suppression(conf=0.001, iou=0.7, max_det=300)


def exported(model, path):
    """A file that suppresses as `CROWDED` says."""
    asked = {"conf": CROWDED.conf, "iou": CROWDED.iou, "max_det": CROWDED.max_det}
    return onnx.export(model, path, imgsz=96, nms=True, verify=False, **asked)


@pytest.fixture(scope="module")
def saturated():
    """An untrained network for masks, whose scores are 1 for several classes of an anchor."""
    return lively_model(seed=0, name="yolo11n-seg.yaml")


@pytest.fixture(scope="module")
def with_nms(saturated, tmp_path_factory):
    return exported(saturated, tmp_path_factory.mktemp("suppressed") / "seg.onnx")


def judge(model, opened, nms=CROWDED):
    return suppressed.compare(model.model, opened, gate.bundled_images(), nms, ROOM, with_others=True)


def test_an_untrained_network_has_ties_and_its_file_is_not_refused_for_them(saturated, with_nms):
    pixels = np.concatenate(list(parity.full_batches(parity.open_onnx(with_nms), gate.bundled_images())))
    with torch.inference_mode():
        scores = gate.parity.as_exported(saturated.model)(torch.from_numpy(pixels))[0][:, 4:84]
    assert ((scores == scores.amax(1, keepdim=True)).sum(1) > 1).any(), "no anchor has two best classes"

    lines = gate.verify(gate.Case(saturated.model, with_nms, "onnx", "fp32", (96, 96), CROWDED))
    assert "parity: onnx in fp32 against its source on 2 images at 96x96:" in lines[0]
    assert ", the rest within " in lines[0]
    assert gate.SEES_NOTHING not in lines


def test_the_boxes_of_the_networks_own_float64_are_right_too_though_they_are_others(saturated, with_nms):
    exact = parity.as_exported(saturated.model).double()
    opened = parity.open_onnx(with_nms)
    given = []

    def run(pixels):
        with torch.inference_mode():
            output, protos = exact(torch.from_numpy(pixels).double())
        (rows,) = non_max_suppression(output.float(), CROWDED.conf, CROWDED.iou, max_det=CROWDED.max_det, nc=80)
        given.append((pixels, rows.numpy()))
        return [np.pad(rows.numpy(), ((0, CROWDED.max_det - len(rows)), (0, 0)))[None], protos.float().numpy()]

    found = judge(saturated, dataclasses.replace(opened, run=run))
    assert found.least_iou > 0.99
    source = parity.as_exported(saturated.model)
    alone = 0
    for pixels, rows in given:
        with torch.inference_mode():
            output = source(torch.from_numpy(pixels))[0]
        (expected,) = non_max_suppression(output, CROWDED.conf, CROWDED.iou, max_det=CROWDED.max_det, nc=80)
        alone += len(rows) - len(boxes.pair_up(expected.numpy()[:, :6], rows[:, :6]))
    assert alone, "every box has a partner, so this test shows nothing"


@pytest.mark.parametrize(
    ("output", "columns", "words"),
    [(0, slice(6, None), "what belongs to a box by"), (1, slice(None), "output1 by"), (0, slice(0, 1), "are not the")],
)
def test_masks_that_are_not_the_sources_are_refused(saturated, with_nms, output, columns, words):
    opened = parity.open_onnx(with_nms)

    def run(pixels):
        outputs = opened.run(pixels)
        outputs[output][..., columns] += 40 * (outputs[output][..., columns] != 0)
        return outputs

    with pytest.raises(parity.ParityError, match=words):
        judge(saturated, dataclasses.replace(opened, run=run))


@pytest.mark.parametrize(("threshold", "words"), [(0.9, "should have been suppressed"), (0.4, "source are missing")])
def test_a_file_that_suppresses_by_another_overlap_is_refused(saturated, with_nms, tmp_path, threshold, words):
    model = onnx_files.load(with_nms)
    (node,) = (node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    model.graph.initializer.append(onnx_files.numpy_helper.from_array(np.array([threshold], np.float32), "changed"))
    node.input[3] = "changed"
    with pytest.raises(parity.ParityError, match=words):
        judge(saturated, parity.open_onnx(model.SerializeToString()))


@pytest.fixture(scope="module")
def turning():
    """An untrained network for turned boxes."""
    return lively_model(seed=1, name="yolo11n-obb.yaml")


@pytest.fixture(scope="module")
def turned_with_nms(turning, tmp_path_factory):
    return exported(turning, tmp_path_factory.mktemp("turned") / "obb.onnx")


def test_a_file_of_turned_boxes_is_judged_with_their_angles(turning, turned_with_nms):
    lines = gate.verify(gate.Case(turning.model, turned_with_nms, "onnx", "fp32", (96, 96), CROWDED))
    assert lines[0].startswith("parity: onnx in fp32 against its source on 2 images at 96x96: ")
    assert ", the rest within " in lines[0]
    assert judge(turning, parity.open_onnx(turned_with_nms)).boxes > 50


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda angles: angles + 0.1, "are not the source's"),
        (lambda angles: angles * 180 / np.pi, "are not the source's"),
        (lambda angles: angles + np.pi, "are not the source's"),
        (lambda angles: -angles, "are not the source's"),
        (lambda angles: angles * 0, "are not the source's"),
        (lambda angles: angles + 0.0025, "what belongs to a box by"),  # 0.14 degrees
    ],
    ids=["turned", "degrees", "half a turn", "mirrored", "lost", "by little"],
)
def test_a_file_with_wrong_angles_is_refused(turning, turned_with_nms, turn, words):
    opened = parity.open_onnx(turned_with_nms)

    def run(pixels):
        (rows,) = opened.run(pixels)
        rows[..., 6] = np.where(rows[..., 4] != 0, turn(rows[..., 6]), 0)
        return [rows]

    with pytest.raises(parity.ParityError, match=words):
        judge(turning, dataclasses.replace(opened, run=run))


@pytest.mark.parametrize(("iou", "words"), [(0.4, "should have been suppressed"), (0.9, "source are missing")])
def test_a_file_that_suppresses_turned_boxes_by_another_overlap_is_refused(turning, turned_with_nms, iou, words):
    with pytest.raises(parity.ParityError, match=words):
        judge(turning, parity.open_onnx(turned_with_nms), dataclasses.replace(CROWDED, iou=iou))
