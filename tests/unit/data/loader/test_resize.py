# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures resized and turned as tensors, against OpenCV."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from yolov12.data.fit import fit_array
from yolov12.data.loader import resize


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([32, 48, 64]))
def test_the_tensor_path_is_within_two_grey_levels_of_opencv(height: int, width: int, imgsz: int):
    image = picture(height, width)
    expected = fit_array(image, imgsz)
    ours = resize.fit_tensor(torch.from_numpy(image)[None], imgsz)[0].numpy()
    assert ours.shape == expected.shape
    difference = np.abs(ours.astype(int) - expected.astype(int))
    assert difference.max() <= 2, f"max {difference.max()}, mean {difference.mean():.3f}"


def test_a_picture_of_the_right_size_is_not_touched():
    stack = torch.zeros(1, 64, 40, 3, dtype=torch.uint8)
    assert resize.fit_tensor(stack, 64) is stack


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_opencv_turns_them(orientation: int):
    blocks = np.kron(picture(3, 4, seed=1), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(blocks).save(stream, "JPEG", exif=exif, quality=100, subsampling=0)
    data = np.frombuffer(stream.getvalue(), np.uint8)
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)
    flat = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    turned = resize.upright(torch.from_numpy(flat)[None], orientation)[0]
    assert np.array_equal(turned.numpy(), expected)
