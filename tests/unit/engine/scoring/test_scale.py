# SPDX-License-Identifier: AGPL-3.0-or-later
"""Boxes of a batch come to the pixels of its pictures with ultralytics' numbers, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils import ops

from yolov12.engine.scoring.scale import scale

SIDES = st.integers(1, 2000)
SHAPES = st.tuples(SIDES, SIDES)


def assert_same(shapes: list[tuple[int, int]], size: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    rows = ((torch.rand(len(shapes), 7, 6, generator=noise) * 1.4 - 0.2) * max(size)).to(dtype)
    theirs, last = rows.clone(), rows[..., 4:].clone()
    for boxes, shape in zip(theirs, shapes, strict=True):
        ops.scale_boxes(size, boxes[:, :4], (*shape, 3))
    scale(rows, size, [np.empty((*shape, 3), np.uint8) for shape in shapes])
    assert torch.equal(rows, theirs)
    assert torch.equal(rows[..., 4:], last)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=3),
    size=SHAPES,
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_any_sizes(shapes, size, dtype, seed):
    assert_same(shapes, size, dtype, seed)
    assert_same(shapes[:1] * 3, size, dtype, seed)


@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (640, 480), (1080, 1920), (333, 500), (1, 3000)])
@pytest.mark.parametrize("size", [(480, 640), (384, 640), (640, 640)])
def test_sizes_of_photographs(shape, size):
    """Among them those whose boxes are cut off and nothing else."""
    assert_same([shape, shape], size, torch.float32, seed=0)


def test_boxes_of_no_picture_are_no_error():
    scale(torch.empty(1, 0, 6), (64, 64), [np.empty((32, 32, 3), np.uint8)])
