# SPDX-License-Identifier: AGPL-3.0-or-later
"""One look-up through the canvas against OpenCV on a canvas that was made."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from yolov12.data.augment import Hyperparameters, draw, layout, tensors
from yolov12.data.augment.warp import Layers, warp

SIZE = 64


def layers_of(hyp: Hyperparameters, seed: int, count: int = 6) -> tuple[Layers, np.ndarray]:
    """Random layers of noise, and their forward matrices."""
    rng = np.random.default_rng(seed)
    pictures = [
        torch.from_numpy(rng.integers(0, 256, (*rng.integers(1, SIZE + 1, 2), 3), dtype=np.uint8)) for _ in range(9)
    ]
    recipe = draw(rng, rng.integers(9, size=count), hyp, lambda rng, wanted: rng.integers(9, size=wanted))
    widths_and_heights = np.array([(picture.shape[1], picture.shape[0]) for picture in pictures])
    sizes = np.where((recipe.indices >= 0)[..., None], widths_and_heights[recipe.indices], 0)
    where = layout.lay_out(recipe, sizes)
    forward = layout.forward_matrices(recipe, where.canvas)
    backward = layout.backward_matrices(recipe, forward)
    return Layers(pictures, recipe.indices, sizes, where, backward, SIZE, hyp.is_projective), forward


def canvas(layers: Layers, layer: int) -> np.ndarray:
    """The canvas that `warp` never makes."""
    width, height = layers.layout.canvas[layer]
    made = np.full((height, width, 3), tensors.EMPTY, dtype=np.uint8)
    for slot, (left, top, right, bottom), (x, y) in zip(
        layers.slots[layer], layers.layout.inside[layer], layers.layout.pad[layer], strict=True
    ):
        if slot >= 0:
            made[top:bottom, left:right] = layers.pictures[slot][top - y : bottom - y, left - x : right - x].numpy()
    return made


@pytest.mark.parametrize("perspective", [0.0, 0.002])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_those_of_opencv_on_the_whole_canvas(mosaic, perspective, seed):
    hyp = Hyperparameters(
        imgsz=SIZE, mosaic=mosaic, degrees=45.0, scale=0.6, shear=20.0, translate=0.4, perspective=perspective
    )
    layers, forward = layers_of(hyp, seed)
    rendered = warp(layers, torch.device("cpu"))
    for layer, matrix in enumerate(forward):
        function = cv2.warpPerspective if perspective else cv2.warpAffine
        matrix = matrix if perspective else matrix[:2]
        expected = function(canvas(layers, layer), matrix, dsize=(SIZE, SIZE), borderValue=(114,) * 4)
        distance = np.abs(rendered[layer].numpy().transpose(1, 2, 0).astype(int) - expected)
        assert (distance > 2).mean() <= 0.001
        assert distance.max() <= 3


def test_on_the_seam_both_pictures_are_mixed():
    """Four pictures of one colour each; half a pixel to the side, the column on the seam is their mean."""
    pictures = [torch.full((SIZE, SIZE, 3), level, dtype=torch.uint8) for level in (0, 100, 200, 40)]
    sizes = np.full((1, 4, 2), SIZE)
    inside = np.array([[[0, 0, 64, 64], [64, 0, 128, 64], [0, 64, 64, 128], [64, 64, 128, 128]]])
    where = layout.Layout(np.array([[64, 64]]), np.array([[128, 128]]), inside[..., :2], inside)
    backward = np.array([[[1, 0, 31.5], [0, 1, 32], [0, 0, 1]]], dtype=np.float32)
    rendered = warp(Layers(pictures, np.arange(4)[None], sizes, where, backward, SIZE, False), torch.device("cpu"))
    assert rendered[0, 0, 10, 30:35].tolist() == [0, 0, 50, 100, 100]
    assert rendered[0, 0, 50, 30:35].tolist() == [200, 200, 120, 40, 40]


def test_it_does_not_matter_how_many_layers_are_worked_on_at_a_time(monkeypatch):
    layers, _ = layers_of(Hyperparameters(imgsz=SIZE, mosaic=0.5, scale=0.5), seed=1, count=7)
    device = torch.device("cpu")
    at_once = warp(layers, device)
    monkeypatch.setitem(tensors.PIXELS_AT_ONCE, "cpu", 2 * SIZE**2)
    assert torch.equal(warp(layers, device), at_once)
