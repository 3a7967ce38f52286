# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sizes of resized pictures; their pixels against ultralytics' own loading: tests/unit/data/loader/test_gather.py."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from yolov12.data.fit import fit_array, fitted


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 1280))
@example(1, 20_000, 640)
@example(1, 1, 640)
def test_the_long_side_becomes_imgsz_and_nothing_vanishes(height: int, width: int, imgsz: int):
    rows, columns = fitted(height, width, imgsz)
    assert max(rows, columns) == imgsz
    assert min(rows, columns) >= 1
    assert (rows == imgsz) if height >= width else (columns == imgsz)


def test_a_picture_of_the_right_size_is_not_touched():
    image = np.zeros((48, 64, 3), np.uint8)
    assert fit_array(image, 64) is image
