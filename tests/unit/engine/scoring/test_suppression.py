# SPDX-License-Identifier: AGPL-3.0-or-later
"""NMS of a batch gives the rows that ultralytics finds image by image: the same bits in the same order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  # ultralytics takes its NMS where it is imported, as its validator does; else one that leaves ties open
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from ultralytics.utils.nms import non_max_suppression

from yolov12.engine.scoring import suppression
from yolov12.engine.scoring.suppression import batched_nms, end_to_end


def predictions(
    images: int, classes: int, anchors: int, seed: int, grid: int = 0, objects: int = 6, extra: int = 0
) -> Tensor:
    """(images, 4 + classes + extra, anchors) with boxes around a few objects; on a grid of `grid` px overlaps and scores are often equal."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.rand(images, 2, objects, generator=g) * 160
    place = torch.randint(0, objects, (images, 1, anchors), generator=g).expand(-1, 2, -1)
    xy = centres.gather(2, place) + torch.randn(images, 2, anchors, generator=g) * 6
    wh = torch.rand(images, 2, anchors, generator=g) * 20 + 30
    scores = torch.rand(images, classes, anchors, generator=g) ** 3
    if grid:
        xy, wh = (xy / grid).round() * grid, (wh / grid).round() * grid
        scores = (scores * 8).round() / 8
    return torch.cat([xy, wh, scores, torch.rand(images, extra, anchors, generator=g)], 1)


def assert_same(prediction: Tensor, confidence: float, iou: float, **options: Any) -> None:
    nc = options.get("classes", 0)
    theirs = {("nc" if key == "classes" else key): value for key, value in options.items()}
    expected = non_max_suppression(
        prediction.clone(), confidence, iou, **{"multi_label": True, "max_time_img": 60.0} | theirs
    )
    rows, counts = batched_nms(prediction, confidence, iou, **options)
    assert counts == [len(one) for one in expected], (nc, counts)
    assert rows.dtype == expected[0].dtype
    assert torch.equal(rows, torch.cat(expected))


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 4),
    classes=st.integers(1, 5),
    anchors=st.integers(1, 400),
    seed=st.integers(0, 10**6),
    grid=st.sampled_from([0, 10]),
    iou=st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 1.0]),
    confidence=st.sampled_from([0.001, 0.25, 0.9, 1.0]),
    max_det=st.sampled_from([1, 7, 300]),
    agnostic=st.booleans(),
    multi_label=st.booleans(),
)
def test_any_batch(images, classes, anchors, seed, grid, iou, confidence, max_det, agnostic, multi_label):
    assume(anchors != 6)  # which ultralytics takes for a head that suppresses by itself
    prediction = predictions(images, classes, anchors, seed, grid)
    assert_same(prediction, confidence, iou, max_det=max_det, agnostic=agnostic, multi_label=multi_label)


def test_a_crowd_of_thousands_of_candidates_and_an_image_without_any():
    prediction = predictions(3, 3, 2500, seed=1, objects=400)
    prediction[1, 4:] = 0
    assert_same(prediction, 0.001, 0.7)
    assert_same(prediction, 0.001, 0.7, max_det=2000)


def test_candidates_beyond_the_most_are_left_out():
    assert_same(predictions(2, 3, 900, seed=2), 0.001, 0.7, max_nms=1000)


def test_columns_after_the_classes_are_carried_along():
    assert_same(predictions(2, 3, 200, seed=3, extra=2), 0.1, 0.5, classes=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_number_formats(dtype):
    assert_same(predictions(2, 3, 300, seed=4).to(dtype), 0.001, 0.7)


def test_eighty_classes_whose_offsets_round_coordinates():
    assert_same(predictions(2, 80, 120, seed=5), 0.05, 0.7)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("wanted", [[0], [1, 3], [99]])
def test_chosen_classes(multi_label, wanted):
    prediction = predictions(3, 4, 200, seed=7)
    expected = non_max_suppression(prediction.clone(), 0.1, 0.5, wanted, multi_label=multi_label, max_time_img=60.0)
    rows, counts = batched_nms(prediction, 0.1, 0.5, multi_label=multi_label, wanted=torch.tensor(wanted))
    assert counts == [len(one) for one in expected]
    assert torch.equal(rows, torch.cat(expected))


@pytest.mark.parametrize("bound", ["_PAIRS_AT_ONCE", "_CANDIDATES_AT_ONCE"])
def test_large_batches_are_worked_through_in_parts(monkeypatch, bound):
    monkeypatch.setattr(suppression, bound, 1)
    assert_same(predictions(3, 2, 200, seed=6), 0.001, 0.7)


def test_a_part_has_no_more_candidates_than_its_bound(monkeypatch):
    """Where all pass, candidates take several times the memory of the network's forward; where few do, a batch is one part."""
    sizes = []
    candidates = suppression._candidates
    monkeypatch.setattr(suppression, "_CANDIDATES_AT_ONCE", 2 * 3 * 200 + 1)
    monkeypatch.setattr(
        suppression, "_candidates", lambda some, *rest: sizes.append(len(some)) or candidates(some, *rest)
    )
    prediction = predictions(5, 3, 200, seed=6)
    prediction[:, 4:] = prediction[:, 4:].clamp(min=0.01)
    batched_nms(prediction, 0.001, 0.7)
    assert sizes == [2, 2, 1]
    sizes.clear()
    batched_nms(prediction * 0.5, 0.99, 0.7)
    assert sizes == [5]
    sizes.clear()
    prediction[1:, 4:] = 0
    batched_nms(prediction, 0.001, 0.7)
    assert sizes == [2, 3]  # those without any would have the first one's room too


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), boxes=st.integers(0, 40), max_det=st.integers(1, 30))
def test_heads_that_suppress_by_themselves(seed, boxes, max_det):
    g = torch.Generator().manual_seed(seed)
    prediction = torch.rand(3, boxes, 8, generator=g).half()
    expected = non_max_suppression(prediction, 0.4, end2end=True, max_det=max_det)
    rows, counts = end_to_end(prediction, 0.4, max_det)
    assert counts == [len(one) for one in expected]
    assert torch.equal(rows, torch.cat(expected))


def test_a_threshold_is_compared_as_torchvisions_kernel_for_the_device_does():
    """Two boxes that overlap by 0.6: float32(0.6) is more than 0.6, which only the kernel for the CPU sees."""
    overlap = torch.tensor(0.6)
    assert overlap > suppression.comparable(0.6, torch.device("cpu"))
    assert not overlap > suppression.comparable(0.6, torch.device("cuda"))
