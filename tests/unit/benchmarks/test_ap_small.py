# SPDX-License-Identifier: AGPL-3.0-or-later
"""What COCO's evaluator is fed with, and, where it is installed, what it answers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import ap_small

NAMES = ["names: {0: cell, 1: shape}", "names: [cell, shape]"]


@pytest.fixture
def data(tmp_path) -> Path:
    """The yaml of a data set with a small object, a large one, and a picture without any."""
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for name in ("b", "a"):
        cv2.imwrite(str(tmp_path / f"images/val/{name}.jpg"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "labels/val/a.txt").write_text("1 0.5 0.5 0.1 0.2\n0 0.5 0.5 1 1\n")
    (tmp_path / "data.yaml").write_text(f"train: images/val\nval: images/val\n{NAMES[0]}\n")
    return tmp_path / "data.yaml"


@pytest.mark.parametrize("names", NAMES)
def test_labels_become_boxes_in_pixels_of_numbered_pictures(data, names):
    data.write_text(f"val: images/val\n{names}\n")
    truth = ap_small.ground_truth(data)
    assert [(image["id"], image["file_name"], image["width"]) for image in truth["images"]] == [
        (1, "a.jpg", 200),
        (2, "b.jpg", 200),
    ]
    small, large = truth["annotations"]
    assert (small["bbox"], small["category_id"], small["image_id"]) == ([90, 40, 20, 20], 2, 1)
    assert large["area"] == 200 * 100
    assert [category["id"] for category in truth["categories"]] == [1, 2]
    assert ap_small.count_small(truth) == 1


def predicted(data: Path, *boxes: tuple[str, int, list[float], float]) -> list[dict]:
    """Through the file that a validation writes."""
    file = data.with_name("predictions.json")
    written = [
        {"image_id": name, "file_name": f"{name}.jpg", "category_id": cls, "bbox": box, "score": score}
        for name, cls, box, score in boxes
    ]
    file.write_text(json.dumps(written))
    return ap_small.detections(ap_small.ground_truth(data), file)


def test_predictions_are_of_the_pictures_that_are_called_so(data):
    found = predicted(data, ("b", 2, [1, 2, 3, 4], 0.5), ("a", 1, [1, 2, 3, 4], 0.25))
    assert [one["image_id"] for one in found] == [2, 1]


def test_a_validation_that_found_nothing_has_an_ap_of_zero(data):
    truth = ap_small.ground_truth(data)
    assert ap_small.ap_small(truth, ap_small.detections(truth, data.with_name("missing.json"))) == 0


@pytest.mark.parametrize(("left", "ap"), [(90.0, 1.0), (93.0, 0.5), (0.0, 0.0)])
def test_the_evaluator_scores_small_objects_alone(data, left, ap):
    pytest.importorskip("faster_coco_eval", reason=ap_small.NOT_INSTALLED)
    found = predicted(data, ("a", 2, [left, 40.0, 20.0, 20.0], 0.9), ("a", 1, [0.0, 0.0, 20.0, 20.0], 0.9))
    # 3 px aside, the overlap is 17 of 23: enough for the thresholds 0.50 to 0.70
    assert ap_small.ap_small(ap_small.ground_truth(data), found) == pytest.approx(ap, abs=1e-3)
