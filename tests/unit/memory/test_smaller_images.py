# SPDX-License-Identifier: AGPL-3.0-or-later
"""Images shrink step by step to half of imgsz, keep a size that fits for a while, and do not flutter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov12.memory.smaller_images import CALM_STEPS, SmallerImages, resized, size_within

STRIDE = 32


def batch(height: int = 640, width: int = 640) -> dict[str, Any]:
    return {"img": torch.zeros(1, 3, height, width), "bboxes": torch.full((2, 4), 0.5), "cls": torch.zeros(2, 1)}


def sides(one: dict[str, Any]) -> tuple[int, ...]:
    return tuple(one["img"].shape[2:])


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 30))
def test_no_side_is_above_the_limit_and_all_are_multiples_of_the_stride(tall: int, wide: int, limit: int) -> None:
    height, width = size_within(tall * STRIDE, wide * STRIDE, limit * STRIDE, STRIDE)
    assert max(height, width) == min(max(tall, wide), limit) * STRIDE
    assert height % STRIDE == width % STRIDE == 0
    assert min(height, width) > 0


def test_a_batch_that_is_small_enough_is_not_copied() -> None:
    one = batch(320, 256)
    assert resized(one, 320, STRIDE) is one


def test_a_side_is_rounded_up_to_the_stride() -> None:
    assert sides(resized(batch(640, 448), 512, STRIDE)) == (512, 384)


def test_boxes_stay_and_the_loaders_batch_is_not_changed() -> None:
    one = batch()
    smaller = resized(one, 320, STRIDE)
    assert torch.equal(smaller["bboxes"], one["bboxes"])
    assert sides(one) == (640, 640)


def test_sizes_go_down_by_one_stride_to_half_of_imgsz_and_no_further() -> None:
    images, seen = SmallerImages(imgsz=640, stride=STRIDE), []
    while images.lower(batch()) is not None:
        seen.append(sides(images.of(batch())))
    assert seen == [(side, side) for side in range(608, 319, -STRIDE)]


def test_half_of_an_odd_number_of_strides_is_rounded_up() -> None:
    assert SmallerImages(imgsz=96 + 2 * STRIDE, stride=STRIDE).least_px == 96


def test_one_value_per_channel_would_break_batch_norm_so_two_strides_are_the_least() -> None:
    assert SmallerImages(imgsz=64, stride=STRIDE).lower(batch(64, 64)) is None


def test_a_batch_that_multi_scale_made_small_goes_down_from_its_own_size() -> None:
    images = SmallerImages(imgsz=640, stride=STRIDE)
    assert images.lower(batch(416, 416)) == "image size 416 -> 384"


def lowered(times: int) -> SmallerImages:
    images = SmallerImages(imgsz=640, stride=STRIDE)
    for _ in range(times):
        images.lower(batch())
    return images


def calm_steps(images: SmallerImages) -> int:
    """Steps until full size is tried again."""
    for count in range(1, 100 * CALM_STEPS):
        if images.step_done() is not None:
            return count
    raise AssertionError("never")


def test_full_size_is_tried_again_after_a_calm_period() -> None:
    images = lowered(3)
    assert calm_steps(images) == CALM_STEPS
    assert sides(images.of(batch())) == (640, 640)


def test_where_full_size_fails_again_the_size_that_fitted_is_taken_at_once_and_the_period_doubles() -> None:
    images = lowered(3)
    calm_steps(images)
    assert images.lower(batch()) == "image size 640 -> 544"
    assert calm_steps(images) == 2 * CALM_STEPS


def test_trouble_on_smaller_images_begins_the_calm_period_anew() -> None:
    images = lowered(1)
    for _ in range(CALM_STEPS - 1):
        assert images.step_done() is None
    images.lower(batch())
    assert calm_steps(images) == CALM_STEPS


@pytest.mark.parametrize("steps", [1, 3 * CALM_STEPS])
def test_at_full_size_nothing_is_counted(steps: int) -> None:
    images = SmallerImages(imgsz=640, stride=STRIDE)
    assert all(images.step_done() is None for _ in range(steps))
