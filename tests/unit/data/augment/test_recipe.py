# SPDX-License-Identifier: AGPL-3.0-or-later
"""The samplers: their distributions, with bounds of five standard errors and more, and what a recipe promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from ultralytics.data.augment import CutMix

from yolov12.data.augment import Hyperparameters, Recipe, draw

BATCH = 20_000
PROBABILITIES = {"mosaic": 0.8, "mixup": 0.3, "cutmix": 0.2, "flipud": 0.1, "fliplr": 0.6, "bgr": 0.05}
HYP = Hyperparameters(
    imgsz=101,
    degrees=30.0,
    translate=0.2,
    scale=0.5,
    shear=5.0,
    perspective=0.001,
    hsv_h=0.015,
    hsv_s=0.7,
    hsv_v=0.4,
    **PROBABILITIES,
)


def pick(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(1_000, 2_000, size=count)


def drawn(hyp: Hyperparameters = HYP, batch: int = BATCH, seed: int = 0) -> Recipe:
    return draw(np.random.default_rng(seed), np.arange(batch), hyp, pick)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return drawn()


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Within the bounds, and the empirical distribution function within Kolmogorov's bound for one in a million."""
    values = np.sort(values.ravel())
    assert low <= values[0]
    assert values[-1] <= high
    expected = (values - low) / (high - low)
    steps = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(expected - steps).max() < 2.7 / np.sqrt(len(values))


def test_how_often_each_thing_happens(recipe):
    happened = {
        "mosaic": recipe.mosaic,
        "mixup": np.isin(np.arange(BATCH), recipe.owner[recipe.mixup_layers]),
        "cutmix": np.isin(np.arange(BATCH), recipe.owner[recipe.cutmix_layers]),
        "flipud": recipe.flipud,
        "fliplr": recipe.fliplr,
        "bgr": recipe.bgr,
    }
    for name, expected in PROBABILITIES.items():
        error = np.sqrt(expected * (1 - expected) / len(happened[name]))
        assert abs(happened[name].mean() - expected) < 5 * error, name
    del happened["mosaic"]  # of layers, not of samples
    correlations = np.corrcoef(np.stack([*happened.values()]).astype(float))
    assert np.abs(correlations - np.eye(len(happened))).max() < 5 / np.sqrt(BATCH)


def test_a_partner_layer_is_a_mosaic_as_often_as_a_base_layer(recipe):
    partners = recipe.mosaic[recipe.batch :]
    error = np.sqrt(0.8 * 0.2 / len(partners))
    assert abs(partners.mean() - PROBABILITIES["mosaic"]) < 5 * error


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_never_and_always_are_kept(probability):
    hyp = dataclasses.replace(HYP, **dict.fromkeys(PROBABILITIES, probability))
    recipe = drawn(hyp, batch=200)
    assert len(recipe.owner) == (600 if probability else 200)
    assert (recipe.mosaic.mean(), recipe.flipud.mean(), recipe.fliplr.mean(), recipe.bgr.mean()) == (probability,) * 4


def test_the_affine_transformation(recipe):
    assert_uniform(recipe.angle_deg, -30, 30)
    assert_uniform(recipe.gain, 0.5, 1.5)
    assert_uniform(recipe.shear_deg, -5, 5)
    assert_uniform(recipe.perspective, -0.001, 0.001)
    assert_uniform(recipe.middle, 0.3 * HYP.imgsz, 0.7 * HYP.imgsz)
    columns = [recipe.angle_deg, recipe.gain, *recipe.shear_deg.T, *recipe.perspective.T, *recipe.middle.T]
    correlations = np.corrcoef(np.stack([*columns, *recipe.seam.T]))
    assert np.abs(correlations - np.eye(len(correlations))).max() < 6 / np.sqrt(BATCH)


def test_a_scale_of_two_numbers_is_their_range():
    assert_uniform(drawn(dataclasses.replace(HYP, scale=(0.2, 0.9))).gain, 0.2, 0.9)


def test_the_seam_is_where_int_of_a_uniform_number_falls(recipe):
    """Upstream: int(uniform(51, 151)) for 101 pixels, since -101 // 2 is -51."""
    assert (recipe.seam.min(), recipe.seam.max()) == (51, 150)
    counts = np.bincount(recipe.seam.ravel() - 51)
    expected = recipe.seam.size / 100
    assert np.square(counts - expected).sum() / expected < 99 + 6 * np.sqrt(2 * 99)  # chi-squared


def test_the_share_of_mixup_is_beta(recipe):
    share = recipe.mixup_share
    assert abs(share.mean() - 0.5) < 5 * 0.062 / np.sqrt(len(share))
    assert share.std() == pytest.approx(np.sqrt(1 / (4 * 65)), rel=0.05)


def test_cutmix_areas_are_distributed_as_upstreams(recipe):
    np.random.seed(0)
    cutmix = CutMix(dataset=None)
    theirs = np.array([cutmix._rand_bbox(HYP.imgsz, HYP.imgsz) for _ in range(BATCH // 2)], dtype=float)
    ours = recipe.cut_areas.reshape(-1, 4).astype(float)
    assert (ours == ours.round()).all()
    for statistic in (
        lambda areas: areas,
        lambda areas: np.stack((areas[:, 2] - areas[:, 0], np.prod(areas[:, 2:], 1)), 1),
    ):
        mine, others = statistic(ours), statistic(theirs)
        error = others.std(0) / np.sqrt(len(others))
        assert (np.abs(mine.mean(0) - others.mean(0)) < 7 * error).all()
        assert np.allclose(mine.std(0), others.std(0), rtol=0.05)


def test_hsv_gains(recipe):
    for column, gain in zip(recipe.hsv.T, (0.015, 0.7, 0.4), strict=True):
        assert_uniform(column, -gain, gain)
    assert_uniform(recipe.cut_choice, 0, 1)


def test_partners_are_picked_and_the_batch_is_kept_in_order(recipe):
    assert (recipe.indices[:BATCH, 0] == np.arange(BATCH)).all()
    partners = np.concatenate((recipe.indices[recipe.mosaic, 1:].ravel(), recipe.indices[BATCH:, 0]))
    assert_uniform(partners, 1_000, 2_000)
    assert (recipe.indices[~recipe.mosaic, 1:] == -1).all()


def test_what_is_needed_is_each_picture_once():
    recipe = drawn(dataclasses.replace(HYP, mosaic=0.0, mixup=0.0, cutmix=0.0), batch=5)
    assert recipe.needed().tolist() == [0, 1, 2, 3, 4]
    recipe = draw(np.random.default_rng(0), np.array([7, 7, 3]), HYP, lambda rng, count: np.full(count, 3))
    assert recipe.needed().tolist() == [3, 7]


def test_nobody_is_asked_for_no_partners():
    def refuse(rng: np.random.Generator, count: int) -> Any:
        raise AssertionError("an empty ring was asked")

    draw(np.random.default_rng(0), np.arange(4), HYP.without_mosaic(), refuse)


def test_the_same_seed_draws_the_same_recipe():
    for name, values in vars(drawn(batch=50)).items():
        assert np.array_equal(values, getattr(drawn(batch=50), name)), name
