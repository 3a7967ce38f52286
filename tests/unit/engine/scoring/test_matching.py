# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detections and objects of a whole set find each other as they do in ultralytics' loop over images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ultralytics.engine.validator import BaseValidator
from ultralytics.utils.metrics import ConfusionMatrix, box_iou

from yolov12.engine.scoring import matching
from yolov12.engine.scoring.matching import greedy, overlapping, true_positives
from yolov12.engine.scoring.statistics import confusion_matrix

THRESHOLDS = torch.linspace(0.5, 0.95, 10)
CLASSES = 3


def images(counts: list[tuple[int, int]], seed: int, grid: float) -> list[dict[str, Tensor]]:
    """Detections scattered around the objects of each image; on a grid many overlaps are equal."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for detections, targets in counts:
        corner = torch.rand(targets, 2, generator=g) * 60
        boxes = torch.cat([corner, corner + 20 + torch.rand(targets, 2, generator=g) * 20], 1)
        around = boxes[torch.randint(0, targets, (detections,), generator=g)] if targets else torch.rand(detections, 4)
        found = around + torch.randn(detections, 4, generator=g) * 2
        made.append(
            {
                "targets": (boxes / grid).round() * grid,
                "target_cls": torch.randint(0, CLASSES, (targets,), generator=g).float(),
                "boxes": (found / grid).round() * grid,
                "cls": torch.randint(0, CLASSES, (detections,), generator=g).float(),
                "conf": (torch.rand(detections, generator=g) * 8).round() / 8,
            }
        )
    return made


def whole(made: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.cat([one[key] for one in made])


def pairs_of(made: list[dict[str, Tensor]], least: float, *classes: Tensor) -> Any:
    counts = [len(one["boxes"]) for one in made], [len(one["targets"]) for one in made]
    found = overlapping(whole(made, "boxes"), counts[0], whole(made, "targets"), counts[1], least, *classes)
    return matching.Pairs(*(column.numpy() for column in found))


scenes = given(
    counts=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 12)), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    grid=st.sampled_from([0.001, 4.0]),
)


@settings(max_examples=80, deadline=None)
@scenes
def test_true_positives_are_those_of_match_predictions(counts, seed, grid):
    made = images(counts, seed, grid)
    stand_in = SimpleNamespace(iouv=THRESHOLDS)
    expected = [
        BaseValidator.match_predictions(
            stand_in, one["cls"], one["target_cls"], box_iou(one["targets"], one["boxes"])
        ).numpy()
        if len(one["cls"]) and len(one["target_cls"])
        else np.zeros((len(one["cls"]), 10), dtype=bool)
        for one in made
    ]
    pairs = pairs_of(made, 0.49, whole(made, "cls"), whole(made, "target_cls"))
    ours = true_positives(len(whole(made, "cls")), *pairs, THRESHOLDS.numpy())
    assert np.array_equal(ours, np.concatenate(expected))


@settings(max_examples=80, deadline=None)
@scenes
def test_the_confusion_matrix_is_ultralytics(counts, seed, grid):
    made = images(counts, seed, grid)
    expected = ConfusionMatrix(names=dict.fromkeys(range(CLASSES), ""))
    for one in made:
        expected.process_batch(
            {"bboxes": one["boxes"], "cls": one["cls"], "conf": one["conf"]},
            {"bboxes": one["targets"], "cls": one["target_cls"]},
            conf=0.25,
        )
    of = np.repeat(np.arange(len(made)), [len(one["cls"]) for one in made])
    found = whole(made, "conf").numpy(), whole(made, "cls").numpy(), of
    ours = confusion_matrix(found, whole(made, "target_cls").numpy(), pairs_of(made, 0.449), 0.25, CLASSES)
    assert np.array_equal(ours, expected.matrix)


def test_a_crowd_whose_detections_wait_for_each_other():
    """Each object overlaps the next, so that a chain of hundreds of choices hangs on the first."""
    left = torch.arange(300.0)
    boxes = torch.stack([left * 2, left * 0, left * 2 + 10, left * 0 + 10], 1)
    made = [{"boxes": boxes + 1, "targets": boxes, "cls": left * 0, "target_cls": left * 0}]
    expected = BaseValidator.match_predictions(
        SimpleNamespace(iouv=THRESHOLDS), left * 0, left * 0, box_iou(boxes, boxes + 1)
    )
    pairs = pairs_of(made, 0.49, left * 0, left * 0)
    assert np.array_equal(true_positives(300, *pairs, THRESHOLDS.numpy()), expected.numpy())


def test_a_detection_takes_the_free_object_of_largest_overlap_and_the_first_of_equal_ones():
    detection, target = np.array([0, 0, 1, 1, 2]), np.array([1, 0, 0, 1, 1])
    iou = np.array([0.8, 0.8, 0.9, 0.7, 0.95], dtype=np.float32)
    matches = greedy(detection, target, iou)
    assert {(detection[i], target[i]) for i in matches} == {(0, 0), (1, 1)}


@pytest.mark.parametrize("at_once", [1, 100])
def test_pairs_do_not_depend_on_how_many_images_are_compared_at_a_time(monkeypatch, at_once):
    made = images([(5, 3), (0, 4), (20, 12), (3, 0), (9, 9)], seed=3, grid=0.001)
    expected = pairs_of(made, 0.3)
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", at_once)
    for ours, other in zip(pairs_of(made, 0.3), expected, strict=True):
        assert np.array_equal(ours, other)
