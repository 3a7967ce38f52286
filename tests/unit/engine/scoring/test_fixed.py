# SPDX-License-Identifier: AGPL-3.0-or-later
"""NMS in tensors of fixed shapes gives ultralytics' rows, or says that it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision  # noqa: F401  # ultralytics takes its NMS where it is imported, as predictors do; else one that leaves ties open
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from ultralytics.utils.nms import non_max_suppression

from tests.unit.engine.scoring.test_suppression import predictions
from yolov12.engine.scoring import fixed
from yolov12.engine.scoring.asked import Asked, Suppression, asked
from yolov12.engine.scoring.fixed import counts_of


def ultralytics_rows(prediction: Tensor, what: Asked) -> list[Tensor]:
    """As a predictor asks for them."""
    return non_max_suppression(
        prediction.clone(),
        what.confidence,
        what.iou,
        None if what.classes is None else list(what.classes),
        what.agnostic,
        max_det=what.max_det,
        end2end=what.end2end,
    )


def assert_same(prediction: Tensor, **options: Any) -> bool:
    """Whether the rows came without waiting; with waiting they are equal too."""
    what = Asked(
        **{"confidence": 0.25, "iou": 0.7, "max_det": 300, "agnostic": False, "classes": None, "end2end": False}
        | options
    )
    expected, ours = ultralytics_rows(prediction, what), Suppression()
    answer = ours(prediction, what)
    counts = counts_of(answer)
    if counts is not None:
        assert counts == [len(one) for one in expected]
        for rows, theirs in zip(answer, expected, strict=True):
            assert rows.dtype == theirs.dtype
            assert torch.equal(rows[: len(theirs)], theirs)
            assert not rows[len(theirs) : -1].any()
    if not what.end2end:
        for rows, theirs in zip(ours.by_waiting(prediction, what), expected, strict=True):
            assert torch.equal(rows, theirs)
    return counts is not None


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 4),
    classes=st.integers(1, 5),
    anchors=st.integers(1, 300),
    seed=st.integers(0, 10**6),
    grid=st.sampled_from([0, 10]),
    iou=st.sampled_from([0.0, 0.3, 0.6, 0.7, 1.0]),
    confidence=st.sampled_from([0.001, 0.25, 0.9, 1.0]),
    max_det=st.sampled_from([1, 7, 300]),
    agnostic=st.booleans(),
    chosen=st.sampled_from([None, (0,), (1, 3), (4, 99)]),
)
def test_any_batch(images, classes, anchors, seed, grid, iou, confidence, max_det, agnostic, chosen):
    assume(anchors != 6)  # which ultralytics takes for a head that suppresses by itself
    prediction = predictions(images, classes, anchors, seed, grid)
    assert_same(prediction, iou=iou, confidence=confidence, max_det=max_det, agnostic=agnostic, classes=chosen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_pictures_are_predicted_with_needs_no_waiting(dtype):
    prediction = predictions(3, 80, 2000, seed=1).to(dtype)
    prediction[:, 4:] *= prediction[:, 4:] > 0.9999  # tens of candidates in each, as of a trained network
    prediction[1, 4:] = 0
    assert assert_same(prediction)
    assert assert_same(prediction, classes=(0, 7, 20))


def test_a_crowd_beyond_the_room_says_so():
    crowded = predictions(2, 3, fixed.ROOM + 200, seed=1)
    crowded[0, 4:] = 0  # one image without any does not make up for the other
    assert not assert_same(crowded, confidence=0.001)


def test_a_chain_longer_than_the_rounds_says_so():
    """Boxes in a row, each better than the next and overlapping it alone: every other one stands, which takes as many rounds as there are."""
    long = 2 * fixed.ROUNDS
    prediction = torch.zeros(1, 5, long)
    prediction[0, 0], prediction[0, 1] = torch.arange(long) * 5.0, 50
    prediction[0, 2:4] = 10
    prediction[0, 4] = 0.9 - torch.arange(long) / 100
    assert not assert_same(prediction, iou=0.3)
    assert assert_same(prediction[..., : fixed.ROUNDS], iou=0.3)


def test_of_more_images_than_fit_at_once_all_are_answered(monkeypatch):
    monkeypatch.setattr(fixed, "_IMAGES_AT_ONCE", 2)
    assert_same(predictions(5, 3, 100, seed=2), confidence=0.5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), boxes=st.integers(1, 40), max_det=st.integers(1, 60), chosen=st.booleans())
def test_heads_that_suppress_by_themselves(seed, boxes, max_det, chosen):
    g = torch.Generator().manual_seed(seed)
    prediction = torch.rand(3, boxes, 6, generator=g).half()
    prediction[..., 5] = torch.randint(0, 4, (3, boxes), generator=g)
    assert assert_same(prediction, confidence=0.4, max_det=max_det, end2end=True, classes=(1, 2) if chosen else None)


@pytest.mark.parametrize(
    "chosen", [2, [2], (2,), np.array([2]), range(2, 3), torch.tensor([2])], ids=lambda one: type(one).__name__
)
def test_classes_may_be_given_in_any_form(chosen):
    args = SimpleNamespace(conf=0.25, max_det=300, agnostic_nms=False, classes=chosen)
    assert asked(args, 0.7, end2end=False).classes == (2,)


def test_counts_are_of_all_images_or_none():
    answer = torch.zeros(2, 4, 6)
    answer[:, -1, :2] = torch.tensor([[3.0, 1], [0, 1]])
    assert counts_of(answer) == [3, 0]
    answer[1, -1, 1] = 0
    assert counts_of(answer) is None


@pytest.mark.parametrize("classes", [None, (0, 2)])
@pytest.mark.parametrize("end2end", [False, True])
def test_nothing_in_it_waits_or_brings_numbers_from_the_cpu(classes, end2end):
    """What a CUDA graph forbids. Traced without data, so that a look at a number would raise; constants would be made on the CPU."""
    one, other = (predictions(2, 3, 64, seed=seed) for seed in (1, 2))
    if end2end:
        one, other = one[:, :6].transpose(1, 2), other[:, :6].transpose(1, 2)
    what, ours = Asked(0.25, 0.7, 300, False, classes, end2end), Suppression()
    expected = ours(other, what)
    traced = make_fx(lambda x: ours(x, what), tracing_mode="fake", _allow_non_fake_inputs=True)(one)
    assert torch.equal(traced(other), expected)
    held = {name for name, _ in traced.named_buffers()} | {
        node.target for node in traced.graph.nodes if node.op == "get_attr"
    }
    assert len(held) <= (classes is not None), "only the chosen classes, which were made before"
