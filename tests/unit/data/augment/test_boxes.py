# SPDX-License-Identifier: AGPL-3.0-or-later
"""The box rules against upstream's functions, on whatever hypothesis comes up with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ultralytics.data.augment import CutMix, RandomPerspective
from ultralytics.utils.instance import Instances
from ultralytics.utils.metrics import bbox_ioa

from yolov12.data.augment import boxes
from yolov12.data.augment.boxes import Objects

SIZE = 64
COORDINATE = st.floats(-20, 90, width=32)


@st.composite
def box_lists(draw: Any, least: int = 0) -> np.ndarray:
    count = draw(st.integers(least, 12))
    corners = draw(arrays(np.float32, (count, 2, 2), elements=COORDINATE))
    return np.sort(corners, axis=1).reshape(count, 4)


@given(before=box_lists(least=12), after=box_lists(least=12))
def test_candidates_are_upstreams(before, after):
    expected = RandomPerspective.box_candidates(before.T, after.T, area_thr=0.10)
    assert np.array_equal(boxes.candidates(before, after), expected)


@pytest.mark.parametrize(
    ("after", "is_kept"),
    [
        ([0, 0, 2, 60], False),  # not wider than 2 pixels
        ([0, 0, 2.01, 60], True),
        ([0, 0, 10, 10], False),  # 100 of 1,000 square pixels: not more than a tenth
        ([0, 0, 10, 10.1], True),
        ([0, 0, 400, 4], False),  # 100 times as wide as high
        ([0, 0, 399, 4], True),
    ],
)
def test_the_three_thresholds(after, is_kept):
    before = np.array([[0, 0, 100, 10]], dtype=np.float32)
    assert boxes.candidates(before, np.array([after], dtype=np.float32)).tolist() == [is_kept]


@settings(deadline=None)
@given(
    found=box_lists(),
    matrix=arrays(np.float32, (2, 3), elements=st.floats(-2, 2, width=32)),
    row=arrays(np.float32, (2,), elements=st.floats(0, 2**-9, width=32)),
    gain=st.floats(0.1, 2),
    is_projective=st.booleans(),
)
def test_warping_is_upstreams(found, matrix, row, gain, is_projective):
    forward = np.eye(3, dtype=np.float32)
    forward[:2] = matrix
    forward[2, :2] = row if is_projective else 0
    found = found.clip(0)  # so that the depth stays positive
    upstream = RandomPerspective(perspective=float(is_projective), size=(SIZE, SIZE))
    labels = {
        "cls": np.arange(len(found), dtype=np.float32)[:, None],
        "instances": Instances(found.copy(), bbox_format="xyxy", normalized=False),
    }
    params = {"M": forward, "scale": gain, "orig_shape": (SIZE, SIZE), "size": (SIZE, SIZE)}
    labels = upstream.apply_instances(labels, params)
    group = np.zeros(len(found), dtype=np.int64)
    objects = Objects(group, np.arange(len(found), dtype=np.float32), found)
    ours = boxes.warp(objects, forward[None], np.array([gain]), SIZE, is_projective)
    # A box on a threshold may fall to either side by the last bit: upstream multiplies all corners in one product, ours each box's.
    theirs = labels["cls"][:, 0]
    both = np.intersect1d(ours.classes, theirs)
    for one in np.setxor1d(ours.classes, theirs):
        assert _is_on_a_threshold(found[int(one)], forward, gain, is_projective)
    expected = labels["instances"].bboxes[np.isin(theirs, both)]
    assert np.allclose(ours.boxes[np.isin(ours.classes, both)], expected, rtol=0, atol=1e-3)


def _is_on_a_threshold(box: np.ndarray, forward: np.ndarray, gain: float, is_projective: bool) -> bool:
    corners = np.array([(x, y, 1) for x in box[[0, 2]] for y in box[[1, 3]]], dtype=np.float64) @ forward.T.astype(
        float
    )
    points = (corners[:, :2] / corners[:, 2:] if is_projective else corners[:, :2]).clip(0, SIZE)
    width, height = points.max(0) - points.min(0)
    share = width * height / (np.prod(box[2:] - box[:2]) * gain**2 + 1e-16)
    aspect = max(width / (height + 1e-16), height / (width + 1e-16))
    return any(
        np.isclose(value, limit, rtol=1e-3) for value, limit in ((width, 2), (height, 2), (share, 0.1), (aspect, 100))
    )


def recipe_of_one_cut(areas: np.ndarray, choice: float) -> Any:
    """As much of a recipe as `boxes.mix` reads: one sample, whose second layer is cut into it."""
    return SimpleNamespace(
        batch=1,
        owner=np.array([0, 0]),
        cutmix_layers=slice(1, 2),
        cut_areas=areas[None],
        cut_choice=np.array([choice]),
    )


@settings(deadline=None)
@given(
    base=box_lists(),
    partner=box_lists(),
    corners=arrays(np.int64, (3, 2, 2), elements=st.integers(0, SIZE)),
    choice=st.floats(0, 1, exclude_max=True),
)
def test_cutmix_takes_the_area_and_the_objects_that_upstream_takes(base, partner, corners, choice):
    areas = np.sort(corners, axis=1).reshape(3, 4).astype(np.float32)
    base, partner = base.clip(0, SIZE), partner.clip(0, SIZE)
    free = np.nonzero(bbox_ioa(areas, base).sum(axis=1) <= 0)[0]
    group = np.repeat([0, 1], [len(base), len(partner)])
    objects = Objects(group, np.arange(len(group), dtype=np.float32), np.concatenate((base, partner)))
    mixed, (area,) = boxes.mix(objects, recipe_of_one_cut(areas, choice))
    assert np.array_equal(mixed.boxes[: len(base)], base)
    pasted = mixed.where(np.arange(len(mixed.classes)) >= len(base))
    chosen = areas[free[int(choice * len(free))]] if len(free) else None
    kept = [] if chosen is None else np.nonzero(bbox_ioa(chosen[None], partner)[0] >= 0.1)[0]
    assert (pasted.classes - len(base)).tolist() == list(kept)
    if not len(kept):
        assert area.tolist() == [0, 0, 0, 0]
        return
    assert area.tolist() == chosen.tolist()
    labels = {
        "cls": np.zeros((0, 1), np.float32),
        "instances": Instances(np.zeros((0, 4), np.float32), bbox_format="xyxy"),
    }
    labels["mix_labels"] = [
        {
            "cls": np.zeros((len(partner), 1), np.float32),
            "instances": Instances(partner.copy(), bbox_format="xyxy", normalized=False),
        }
    ]
    params = {"area": chosen, "indexes2": kept, "w": SIZE, "h": SIZE}
    theirs = CutMix(dataset=None).apply_instances(labels, params)["instances"].bboxes
    assert np.allclose(pasted.boxes, theirs, rtol=0, atol=1e-3)


def test_objects_come_sample_by_sample_base_first_then_mixup_then_what_was_pasted():
    """Two samples; mixup adds layer 2 to sample 1, cutmix layer 3 to sample 0."""
    square = np.array([[0, 0, 4, 4]], dtype=np.float32)
    objects = Objects(np.arange(4), np.array([10, 11, 21, 30], dtype=np.float32), np.tile(square, (4, 1)))
    objects.boxes[3] = (20, 20, 30, 30)
    areas = np.array([[[0, 0, 9, 9], [20, 25, 40, 40], [0, 0, 9, 9]]], dtype=np.float32)
    recipe: Any = SimpleNamespace(
        batch=2,
        owner=np.array([0, 1, 1, 0]),
        cutmix_layers=slice(3, 4),
        cut_areas=areas,
        cut_choice=np.array([0.99]),
    )
    mixed, area = boxes.mix(objects, recipe)
    assert mixed.group.tolist() == [0, 0, 1, 1]
    assert mixed.classes.tolist() == [10, 30, 11, 21]
    assert mixed.boxes[1].tolist() == [20, 25, 30, 30]
    assert area.tolist() == [[20, 25, 40, 40]]
