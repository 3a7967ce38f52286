# SPDX-License-Identifier: AGPL-3.0-or-later
"""The verdict on raw outputs, on numbers that can be checked by hand."""

import math

import numpy as np
import pytest

from yolov12.errors import UserError
from yolov12.export import parity


def measured(*max_abs_diffs, rounding=0.0, unseen=()):
    def distances(values):
        return tuple(
            parity.Distance(f"output{index}", value, value / 10, 640.0, rounding) for index, value in enumerate(values)
        )

    return parity.Parity(distances(max_abs_diffs), distances(unseen), 4, (640, 640))


def test_a_distance_has_its_mean_its_largest_and_the_sources_own_rounding():
    expected, got, precise = np.array([[0.0, -8.0]]), np.array([[0.5, -8.25]]), np.array([[0.0, -8.125]])
    (found,) = parity.distance("output0", expected, got, precise)
    assert (found.max_abs_diff, found.mean_abs_diff, found.largest_value, found.rounding) == (0.5, 0.375, 8.0, 0.125)


def test_nothing_to_compare_has_no_distance():
    assert list(parity.distance("output0", *[np.zeros((0,))] * 3)) == []


def test_the_box_of_an_anchor_that_scores_nothing_is_not_looked_at():
    anchors = np.zeros((1, 4 + 2 + 1, 3))  # box, two scores, one mask coefficient; three anchors
    anchors[0, 4:6] = [[0.9, 0.0, 0.0002], [0.0, 0.001, 0.0003]]
    mask = parity.seen_elements(anchors, classes=2)
    np.testing.assert_array_equal(mask[0, 0], [True, True, False])
    np.testing.assert_array_equal(mask[0, 6], [True, True, False])
    assert mask[0, 4:6].all()


def test_every_element_is_looked_at_where_there_are_no_anchors():
    assert parity.seen_elements(np.zeros((1, 32, 8, 8)), classes=None).all()


def test_a_difference_within_the_threshold_passes():
    assert parity.require_raw(measured(1e-3)).max_abs_diff == 1e-3


def test_a_larger_difference_names_the_output_and_the_numbers():
    with pytest.raises(parity.ParityError, match=r"output1 by 2\.00e-03 .*allowed 1\.0e-03"):
        parity.require_raw(measured(1e-5, 2e-3))


def test_a_source_that_rounds_more_than_the_threshold_is_not_held_against_the_export():
    assert parity.require_raw(measured(2.3e-3, rounding=1.6e-3)).outputs[0].allowed() == 6.4e-3


def test_five_times_the_sources_rounding_is_another_computation():
    with pytest.raises(parity.ParityError, match=r"allowed 6\.4e-03"):
        parity.require_raw(measured(8e-3, rounding=1.6e-3))


def test_what_nobody_sees_is_not_the_headline_and_is_still_checked():
    odd = measured(1e-5, unseen=(2e-3,))
    assert odd.max_abs_diff == 1e-5
    with pytest.raises(parity.ParityError, match=r"output0 by 2\.00e-03"):
        parity.require_raw(odd)


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
        parity.letterboxed(broken, (64, 64))


def test_images_are_letterboxed_to_rgb_between_0_and_1():
    blue = np.zeros((32, 64, 3), np.uint8)
    blue[..., 0] = 255  # OpenCV's order: blue first
    boxed = parity.letterboxed(blue, (64, 64))
    assert boxed.shape == (3, 64, 64)
    np.testing.assert_array_equal(boxed[:, 32, 32], [0, 0, 1])
    np.testing.assert_allclose(boxed[:, 0, 0], [114 / 255] * 3)


def test_a_network_of_other_channels_gets_those_of_the_image_in_turn():
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[..., 0] = 255
    np.testing.assert_array_equal(parity.letterboxed(blue, (64, 64), channels=1)[:, 32, 32], [0])
    np.testing.assert_array_equal(parity.letterboxed(blue, (64, 64), channels=4)[:, 32, 32], [0, 0, 1, 0])
