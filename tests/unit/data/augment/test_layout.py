# SPDX-License-Identifier: AGPL-3.0-or-later
"""Placement and matrices on numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from yolov12.data.augment import Hyperparameters, Recipe, draw, layout

HYP = Hyperparameters(imgsz=100, mosaic=1.0)


def drawn(hyp: Hyperparameters, batch: int = 1) -> Recipe:
    return draw(np.random.default_rng(0), np.arange(batch), hyp, lambda rng, count: np.arange(count))


def test_a_mosaics_pictures_meet_in_the_seam_and_end_at_the_canvas():
    recipe = dataclasses.replace(drawn(HYP), seam=np.array([[60, 140]]))
    sizes = np.array([[[100, 80], [100, 50], [40, 100], [30, 20]]])
    found = layout.lay_out(recipe, sizes)
    assert found.canvas.tolist() == [[200, 200]]
    assert found.pad[0].tolist() == [[-40, 60], [60, 90], [20, 140], [60, 140]]
    assert found.inside[0].tolist() == [[0, 60, 60, 140], [60, 90, 160, 140], [20, 140, 60, 200], [60, 140, 90, 160]]


def test_a_single_picture_fills_a_canvas_of_its_own():
    recipe = drawn(HYP.without_mosaic())
    found = layout.lay_out(recipe, np.array([[[100, 70], [0, 0], [0, 0], [0, 0]]]))
    assert found.canvas.tolist() == [[100, 70]]
    assert found.inside[0, 0].tolist() == [0, 0, 100, 70]
    empty = found.inside[0, 1:]
    assert ((empty[:, 0] >= empty[:, 2]) | (empty[:, 1] >= empty[:, 3])).all()


def test_the_middle_of_the_canvas_goes_to_the_drawn_point_under_any_rotation():
    recipe = drawn(dataclasses.replace(HYP, degrees=180.0, shear=30.0, scale=0.5, translate=0.2), batch=20)
    forward = layout.forward_matrices(recipe, np.full((20, 2), 200))
    assert np.allclose((forward @ (100, 100, 1))[:, :2], recipe.middle, atol=1e-3)


def test_a_quarter_turn_is_counterclockwise_as_opencvs():
    recipe = dataclasses.replace(
        drawn(HYP), angle_deg=np.array([90.0]), gain=np.array([2.0]), middle=np.array([[0, 0]])
    )
    forward = layout.forward_matrices(recipe, np.array([[0, 0]]))
    assert np.allclose(forward[0] @ (1, 0, 1), (0, -2, 1), atol=1e-6)


@pytest.mark.parametrize(("fliplr", "flipud"), [(False, False), (True, False), (False, True), (True, True)])
def test_going_back_undoes_flips_and_matrix(fliplr, flipud):
    hyp = dataclasses.replace(HYP, degrees=40.0, shear=10.0, scale=0.5, perspective=0.001, translate=0.1)
    recipe = dataclasses.replace(drawn(hyp), fliplr=np.array([fliplr]), flipud=np.array([flipud]))
    forward = layout.forward_matrices(recipe, np.array([[200, 200]]))
    x, y, depth = forward[0].astype(float) @ (120, 90, 1)
    x, y = x / depth, y / depth
    flipped = (99 - x if fliplr else x, 99 - y if flipud else y, 1)
    back = layout.backward_matrices(recipe, forward)[0].astype(float) @ flipped
    assert back[:2] / back[2] == pytest.approx((120, 90), abs=1e-2)


def test_a_matrix_without_inverse_becomes_zeros():
    recipe = dataclasses.replace(drawn(HYP), gain=np.array([0.0]))
    forward = layout.forward_matrices(recipe, np.array([[200, 200]]))
    assert not layout.backward_matrices(recipe, forward).any()
