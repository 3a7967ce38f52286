# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a curve of losses over learning rates is taken to say, on curves whose answer is known."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12.tools.lr_curve import EXPLODED, draw, has_exploded, smooth, suggest, write_csv

LRS = [float(lr) for lr in np.geomspace(1e-6, 1, 121)]


def valley(fall_at: float, lowest_at: float, noise: float = 0.0) -> list[float]:
    """Ten until about `fall_at`, falling to five, and rising steeply beyond `lowest_at`."""
    generator = np.random.default_rng(0)
    places = np.log10(LRS)
    falling = 5 / (1 + np.exp(6 * (places - math.log10(fall_at))))
    rising = np.exp(4 * (places - math.log10(lowest_at))) * 0.05
    return list(5 + falling + rising + noise * generator.standard_normal(len(LRS)))


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_suggestion_lies_between_the_steepest_fall_and_a_tenth_of_the_lowest_point(noise):
    found = suggest(LRS, valley(1e-3, 1e-1, noise))
    assert found is not None
    assert found.low <= found.lr * 1.05
    assert found.lr <= found.high * 1.05
    assert 5e-4 < found.low < 2e-3
    assert 1e-3 < found.high < 2e-2
    assert "falls fastest" in found.reason


def test_a_model_whose_best_rate_is_ten_times_lower_gets_a_suggestion_ten_times_lower():
    one = suggest(LRS, valley(1e-3, 1e-1))
    tenth = suggest(LRS, valley(1e-4, 1e-2))
    assert one is not None
    assert tenth is not None
    assert one.lr / tenth.lr == pytest.approx(10, rel=0.15)


@pytest.mark.parametrize(
    "losses",
    [
        [5.0] * len(LRS),
        list(np.linspace(5, 50, len(LRS))),
        list(5 + 0.05 * np.random.default_rng(1).standard_normal(len(LRS))),
    ],
    ids=["flat", "rising", "noise"],
)
def test_a_loss_that_does_not_fall_gives_no_suggestion(losses):
    assert suggest(LRS, losses) is None


def test_the_largest_fall_of_noise_alone_is_no_fall():
    """As of a few pictures at 64 px, whose loss differs by half from batch to batch."""
    noise = [5 + 2.5 * np.random.default_rng(seed).standard_normal(len(LRS)) for seed in range(100)]
    assert sum(suggest(LRS, losses) is not None for losses in noise) <= 2


def test_a_test_that_noise_ended_early_suggests_nothing():
    """A test on eight photos at 64 px: the mean of its losses falls by 8 % before a few bad batches end it, where bad ones count less it does not."""
    # fmt: off
    losses = [0.65, 4.62, 0.64, 0.64, 1.31, 0.64, 0.63, 0.78, 0.88, 5.45, 0.65, 0.64, 1.99, 0.64, 1.88, 0.64, 0.64, 2.58, 4.20, 4.55]
    # fmt: on
    lrs = [float(lr) for lr in np.geomspace(1e-6, 1, 100)[: len(losses)]]
    smoothed = smooth(lrs, losses)
    assert smoothed[0] < 1.05 * min(smoothed)
    assert suggest(lrs, losses) is None


def test_a_fall_of_less_than_a_twentieth_is_none_however_smooth():
    places = np.log10(LRS)
    for share, is_seen in ((0.04, False), (0.08, True)):
        losses = list(10 - 10 * share / (1 + np.exp(-6 * (places + 3))))
        assert (suggest(LRS, losses) is not None) == is_seen


def test_a_loss_counts_whole_up_to_twice_what_the_first_ones_are():
    once, twice, more = (smooth(LRS[:20], [first] + [10.0] * 19)[0] for first in (10.0, 20.0, 50.0))
    assert once < twice
    assert more == twice


def test_one_bad_batch_before_the_fall_is_no_explosion():
    calm = valley(5e-3, 1e3)
    found = suggest(LRS, [*calm[:3], 25.0, *calm[4:]])
    assert found == suggest(LRS, calm)


def test_what_is_low_after_an_explosion_is_not_the_lowest():
    """As four photos at 96 px: a network that a learning rate of 1 has ended has next to no loss."""
    calm = valley(5e-3, 1e3)[:90]
    calm += [100.0] * 8
    one, other = suggest(LRS, calm + [0.1] * 12), suggest(LRS, calm + [100.0] * 12)
    assert one is not None
    assert other is not None
    assert one.lr == pytest.approx(other.lr, rel=0.1)  # the smoothed curve looks some way ahead


@given(explodes_to=st.floats(100, 1e30), after=st.integers(0, 20))
def test_a_loss_that_explodes_says_the_same_however_far_it_gets_and_does_not_hide_the_fall(explodes_to, after):
    """As on an H200, where one of two tests of the same training suggested nothing (lr_find_without_suggestion.log of 2026-11-30)."""
    calm = valley(5e-3, 1e3)[: LRS.index(min(lr for lr in LRS if lr > 0.015)) + after]
    found = suggest(LRS, [*calm, explodes_to])
    assert found is not None
    assert found == suggest(LRS, [*calm, 100.0])


def test_a_handful_of_updates_gives_no_suggestion():
    assert suggest(LRS[:5], [9, 8, 7, 6, 5]) is None


def test_smoothing_keeps_a_constant_and_ends_at_the_first_loss_that_is_no_number():
    assert smooth(LRS[:4], [3.0, 3.0, 3.0, 3.0]) == pytest.approx([3.0] * 4)
    assert smooth(LRS[:4], [3.0, 3.0, math.nan, 3.0]) == pytest.approx([3.0] * 2)
    assert smooth(LRS[:2], [math.inf, 1.0]) == []


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=len(LRS)))
def test_smoothing_never_leaves_the_range_of_the_losses(losses):
    smoothed = smooth(LRS[: len(losses)], losses)
    assert min(losses) * 0.999 <= min(smoothed)
    assert max(smoothed) <= max(losses) * 1.001


def test_an_explosion_is_no_single_bad_batch():
    calm = [5.0] * 10
    assert not has_exploded([*calm, 2 * EXPLODED * 5])  # a third of it counts
    assert has_exploded([*calm, *[2 * EXPLODED * 5] * 3])
    assert has_exploded([*calm, math.nan])
    assert not has_exploded([5.0])


def test_the_files_hold_the_curve(tmp_path):
    losses = valley(1e-3, 1e-1)
    smoothed = smooth(LRS, losses)
    write_csv(tmp_path / "lr_find.csv", LRS, losses, smoothed)
    rows = list(csv.DictReader((tmp_path / "lr_find.csv").open()))
    assert [float(row["lr"]) for row in rows] == LRS
    assert float(rows[60]["smoothed_loss"]) == smoothed[60]
    draw(tmp_path / "lr_find.png", LRS, losses, smoothed, suggest(LRS, losses))
    assert (tmp_path / "lr_find.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_that_ended_in_no_number_is_written_with_a_gap(tmp_path):
    lrs, losses = LRS[:3], [3.0, 2.0, math.nan]
    write_csv(tmp_path / "lr_find.csv", lrs, losses, smooth(lrs, losses))
    assert (tmp_path / "lr_find.csv").read_text().splitlines()[-1].endswith("nan,")
    draw(tmp_path / "lr_find.png", lrs, losses, smooth(lrs, losses), None)
