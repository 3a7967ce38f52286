# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows of a head that needs no NMS: judged by hand, and those of files of a network with two heads."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.unit.export.lively import lively_model
from yolov12.export import gate, parity, ranked
from yolov12.export.seen import TOLERANCES

ALLOWED = TOLERANCES["fp32"]
BOXES = np.array([[10, 10, 50, 50], [100, 100, 140, 120], [0, 0, 5, 5]], np.float32)
SCORES = np.array([[0.9, 0.6], [0.1, 0.5], [0.02, 0.01]], np.float32)


def row(anchor, kind):
    return [*BOXES[anchor], SCORES[anchor, kind], kind]


ALL = [row(0, 0), row(0, 1), row(1, 1), row(1, 0), row(2, 0)]


def faults(rows, **options):
    found = ranked.examine(np.array(rows, np.float32), BOXES, SCORES, ALLOWED, **options)
    return found.foreign, found.missing


def test_every_pair_is_a_row_in_any_order():
    assert faults(ALL) == (0, 0)
    assert faults(ALL[::-1]) == (0, 0)


def test_a_pair_that_is_not_there_is_missed_unless_it_comes_after_the_last():
    assert faults([ALL[0], *ALL[2:]]) == (0, 1)
    assert faults(ALL[:1]) == (0, 0)  # max_det=1
    assert faults([ALL[0], ALL[2]]) == (0, 1)  # max_det=2: the second is better than the third


def test_where_classes_do_not_count_an_anchor_has_one_row():
    assert faults([row(0, 0), row(1, 1), row(2, 0)], agnostic=True) == (0, 0)
    assert faults([row(0, 0), row(2, 0)], agnostic=True) == (0, 1)
    assert faults([row(0, 0), row(1, 1), row(2, 0)]) == (0, 1)


@pytest.mark.parametrize(
    "changed",
    [
        [10, 10, 50, 51, 0.9, 0],
        [10, 10, 50, 50, 0.89, 0],
        [10, 10, 50, 50, 0.9, 1],
        [100, 100, 140, 120, 0.9, 0],
        [30, 30, 40, 40, 0.9, 0],  # centre, width, height
        [10, 10, 50, 50, np.nan, 0],
        [np.nan, 10, 50, 50, 0.9, 0],
    ],
)
def test_a_row_that_is_no_pair_is_seen(changed):
    assert faults([changed, *ALL[1:]])[0] == 1


def test_a_row_too_many_is_seen():
    assert faults([ALL[0], *ALL]) == (1, 0)


@pytest.fixture(scope="module")
def two_heads():
    """A network with both, which sees something: an untrained one's boxes have their corners the wrong way round, and low scores."""
    model = lively_model(seed=0, name="yolo26n.yaml")
    head = model.model.model[-1]
    with torch.no_grad():
        for branch in (*head.cv2, *head.one2one_cv2):
            branch[-1].weight.mul_(0.02)
            branch[-1].bias.fill_(2.0)
        for branch in head.one2one_cv3:
            branch[-1].bias += 11
    return model


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("form", "agnostic"), [("onnx", True), ("torchscript", False)])
def test_a_file_of_the_head_without_nms_is_compared(two_heads, form, agnostic, tmp_path, capsys):
    two_heads.model.pt_path = str(tmp_path / "best.pt")
    two_heads.export(format=form, imgsz=64, nms=False, agnostic_nms=agnostic)
    said = capsys.readouterr().err
    assert f"parity: {form} in fp32 against its source on 2 images at 64x64: " in said
    assert " rows above 0.25 of " in said


def test_rows_that_are_not_the_sources_are_refused(two_heads, tmp_path, monkeypatch):
    two_heads.model.pt_path = str(tmp_path / "best.pt")
    two_heads.export(format="onnx", imgsz=64, nms=False, verify=False)
    opened = parity.open_onnx(tmp_path / "best.onnx")
    assert ranked.compare(two_heads.model, opened, gate.bundled_images(), ALLOWED).rows > 0

    def moved(pixels):
        (rows,) = opened.run(pixels)
        return [rows + np.array([1, 0, 0, 0, 0, 0], np.float32)]

    with pytest.raises(parity.ParityError, match="rows are not those of its source on 2 images"):
        ranked.compare(two_heads.model, dataclasses.replace(opened, run=moved), gate.bundled_images(), ALLOWED)


def test_of_other_tasks_it_is_said_that_they_are_not_compared(two_heads):
    metadata = {"end2end": True, "task": "segment"}
    assert "a model for segment that needs no NMS" in gate.why_not_compared(two_heads.model, metadata)
    assert gate.why_not_compared(two_heads.model, metadata | {"task": "detect"}) == ""
    assert gate.why_not_compared(two_heads.model, metadata | {"end2end": False}) == ""
