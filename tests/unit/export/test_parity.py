# SPDX-License-Identifier: AGPL-3.0-or-later
"""The verdict on raw outputs, on numbers that can be checked by hand."""

import math

import numpy as np
import pytest

from yolov12.errors import UserError
from yolov12.export import parity


def measured(*max_abs_diffs, rounding=0.0):
    outputs = tuple(
        parity.OutputParity(f"output{index}", (1, 84, 8400), 640.0, difference, difference / 10, rounding)
        for index, difference in enumerate(max_abs_diffs)
    )
    return parity.Parity(outputs, 4, (640, 640))


def test_distances_are_taken_over_all_calls():
    first = (np.zeros((1, 2)), np.array([[0.0, 0.5]]), np.zeros((1, 2)))
    second = (np.full((1, 2), -8.0), np.array([[-8.0, -8.25]]), np.array([[-8.0, -8.125]]))
    output = parity._output_parity("output0", [first, second])
    assert output.max_abs_diff == 0.5
    assert output.mean_abs_diff == (0.25 + 0.125) / 2
    assert output.largest_value == 8.0
    assert output.rounding == 0.125


def test_a_difference_within_the_threshold_passes():
    assert parity.require_raw(measured(1e-3)).max_abs_diff == 1e-3


def test_a_larger_difference_names_the_output_and_the_numbers():
    with pytest.raises(parity.ParityError, match=r"output1 by 2\.00e-03 .*allowed 1\.0e-03"):
        parity.require_raw(measured(1e-5, 2e-3))


def test_a_source_that_rounds_more_than_the_threshold_is_not_held_against_the_export():
    assert parity.require_raw(measured(2.3e-3, rounding=1.6e-3)).allowed() == 6.4e-3


def test_five_times_the_sources_rounding_is_another_computation():
    with pytest.raises(parity.ParityError, match=r"allowed 6\.4e-03"):
        parity.require_raw(measured(8e-3, rounding=1.6e-3))


def test_nan_never_passes():
    with pytest.raises(parity.ParityError, match="output0 by nan"):
        parity.require_raw(measured(math.nan), threshold=math.inf)


def test_the_threshold_can_be_widened_for_float16():
    assert parity.require_raw(measured(0.4), threshold=0.5)


def test_no_image_is_an_error_and_not_agreement(tmp_path):
    with pytest.raises(UserError, match="no image"):
        parity.compare_raw(None, tmp_path / "x.onnx", [])


def test_an_unreadable_image_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"broken\.jpg"):
        parity._letterboxed(broken, (64, 64))


def test_images_are_letterboxed_to_rgb_between_0_and_1():
    blue = np.zeros((32, 64, 3), np.uint8)
    blue[..., 0] = 255  # OpenCV's order: blue first
    boxed = parity._letterboxed(blue, (64, 64))
    assert boxed.shape == (3, 64, 64)
    np.testing.assert_array_equal(boxed[:, 32, 32], [0, 0, 1])
    np.testing.assert_allclose(boxed[:, 0, 0], [114 / 255] * 3)
