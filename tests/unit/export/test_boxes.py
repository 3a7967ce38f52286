# SPDX-License-Identifier: AGPL-3.0-or-later
"""Boxes after NMS: pairs and verdicts on boxes that can be checked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yolov12.export import boxes
from yolov12.export.parity import ParityError

CAR = [10.0, 10.0, 30.0, 30.0, 0.9, 0.0]
DOG = [100.0, 100.0, 140.0, 120.0, 0.6, 1.0]


def found(*rows):
    return np.array(rows, np.float64).reshape(-1, 6)


def compare(ours, theirs):
    return boxes.compare_boxes(lambda image: ours, lambda image: theirs, ["image.jpg"])


def test_iou_of_boxes_that_share_a_third():
    iou = boxes.pairwise_iou(found([0, 0, 2, 1, 1, 0]), found([1, 0, 3, 1, 1, 0], [5, 5, 6, 6, 1, 0]))
    np.testing.assert_allclose(iou, [[1 / 3, 0.0]])


@given(hnp.arrays(np.float64, (5, 4), elements=st.floats(0, 100)))
def test_a_box_overlaps_itself_fully_and_others_at_most_that(corners):
    corners[:, 2:] = corners[:, :2] + corners[:, 2:] + 1
    iou = boxes.pairwise_iou(corners, corners)
    np.testing.assert_allclose(np.diag(iou), 1.0)
    assert (iou >= 0).all()
    assert (iou <= 1 + 1e-12).all()


def test_the_order_of_boxes_does_not_matter():
    measured = boxes.require_boxes(compare(found(CAR, DOG), found(DOG, CAR)))
    assert (measured.source_boxes, measured.exported_boxes, measured.least_iou) == (2, 2, 1.0)


def test_a_missing_box_is_reported():
    with pytest.raises(ParityError, match=r"1 of 1 images .*\(1 boxes in all, 2 from the source\)"):
        boxes.require_boxes(compare(found(CAR, DOG), found(CAR)))


def test_the_same_place_with_another_class_is_not_the_same_box():
    with pytest.raises(ParityError, match="without partner"):
        boxes.require_boxes(compare(found(CAR), found([*CAR[:5], 1.0])))


def test_two_images_whose_differences_cancel_are_still_different():
    answers = {"a": (found(CAR), found()), "b": (found(), found(CAR))}
    measured = boxes.compare_boxes(lambda image: answers[image][0], lambda image: answers[image][1], ["a", "b"])
    assert (measured.source_boxes, measured.exported_boxes) == (1, 1)
    with pytest.raises(ParityError, match="2 of 2 images"):
        boxes.require_boxes(measured)


def test_a_moved_box_is_reported_with_its_iou():
    moved = [10.0, 10.0, 30.0, 31.0, 0.9, 0.0]
    with pytest.raises(ParityError, match=r"IoU 0\.9524"):
        boxes.require_boxes(compare(found(CAR), found(moved)))


def test_another_score_is_reported():
    with pytest.raises(ParityError, match=r"score differs by 1\.00e-01"):
        boxes.require_boxes(compare(found(CAR), found([*CAR[:4], 0.8, 0.0])))


def test_agreement_on_nothing_proves_nothing():
    with pytest.raises(ParityError, match="found 0 boxes on 1 images"):
        boxes.require_boxes(compare(found(), found()))
