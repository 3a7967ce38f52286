# SPDX-License-Identifier: AGPL-3.0-or-later
"""HSV against OpenCV's own conversion, and the tables against RandomHSV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from ultralytics.data.augment import RandomHSV

from yolov12.data.augment import colour

LEVELS = np.arange(256, dtype=np.uint8)


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@pytest.mark.parametrize("blue", range(0, 256, 15))
def test_to_hsv_is_opencvs_to_the_bit(blue):
    green, red = np.meshgrid(LEVELS, LEVELS)
    image = np.stack((np.full_like(green, blue), green, red), axis=-1)
    ours = torch.cat(colour.hsv_of(planes(image))).numpy().transpose(1, 2, 0)
    assert np.array_equal(ours, cv2.cvtColor(image, cv2.COLOR_BGR2HSV))


def test_back_from_hsv_is_opencvs_but_for_a_grey_level_in_few_places():
    saturation, value = np.meshgrid(LEVELS, LEVELS)
    differing = 0
    hues = range(0, 180, 3)
    for hue in hues:
        image = np.stack((np.full_like(value, hue), saturation, value), axis=-1)
        ours = torch.stack(colour.bgr_of(*torch.from_numpy(image).unbind(-1)), dim=-1).int().numpy()
        distance = np.abs(ours - cv2.cvtColor(image, cv2.COLOR_HSV2BGR).astype(int))
        assert distance.max() <= 1
        differing += int((distance > 0).sum())
    assert differing < 2e-4 * len(hues) * 3 * 2**16


@pytest.mark.parametrize("gains", [(0.0, 0.0, 0.0), (-0.5, 1.0, -1.0), (0.014, -0.7, 0.4), (0.9, 0.3, 0.99)])
def test_recolouring_is_upstreams(gains, monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    image[:32] = image[:32, :, :1]  # greys
    monkeypatch.setattr(np.random, "uniform", lambda low, high, count: np.array(gains))
    expected = RandomHSV(1.0, 1.0, 1.0).apply_image({"img": image.copy()})["img"][..., ::-1]
    ours = colour.recolour(planes(image), np.array([gains]))[0].numpy().transpose(1, 2, 0)
    distance = np.abs(ours.astype(int) - expected)
    assert distance.max() <= 1
    assert (distance > 0).mean() < 0.001


def test_each_image_has_gains_of_its_own():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    gains = np.array([[0.1, 0.2, -0.3], [0, 0, 0], [-0.2, 0.5, 0.1]])
    together = colour.recolour(images, gains)
    for i in range(3):
        assert torch.equal(together[i], colour.recolour(images[i : i + 1], gains[i : i + 1])[0])
