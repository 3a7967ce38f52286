# SPDX-License-Identifier: AGPL-3.0-or-later
"""The arithmetic of the loss scale, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolov12.precision import loss_scale
from yolov12.precision.loss_scale import Caution, Layers, next_scale

CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)
INTERVAL = 2000


def bits(value: float) -> Tensor:
    return torch.tensor(float(value))


def caution(margin: float = 0, skipped: float = 0, since: float = 1000) -> Caution:
    return Caution(bits(margin), bits(skipped), bits(since))


def seen(*largest: list[float]) -> Layers:
    layers = loss_scale.unseen_layers(len(largest[0]), CPU)
    for of_update in largest:
        layers = loss_scale.observe(layers, torch.tensor(of_update))
    return layers


def after(
    scale: float, loud: float = 0, quiet: float = 0, overflow: Tensor = NO, nan: Tensor = NO, of: Caution | None = None
) -> tuple[float, Caution]:
    chosen, learnt = next_scale(bits(scale), 16, bits(loud), bits(quiet), overflow, nan, of or caution(), INTERVAL)
    return float(chosen), learnt


def test_the_first_gradient_of_a_layer_is_its_mean() -> None:
    layers = seen([8.0, 0.25])
    assert layers.mean.tolist() == layers.latest.tolist() == [3.0, -2.0]


def test_a_mean_rises_within_a_few_updates_and_falls_slowly() -> None:
    layers = seen([1.0, 1.0], [16.0, 2.0**-4])
    assert layers.mean.tolist() == pytest.approx([4 / loss_scale.RISE_STEPS, -4 / loss_scale.MEMORY_STEPS])


def test_a_steady_drift_is_no_variance() -> None:
    drifting = seen(*([2.0 ** (step / 4)] for step in range(400)))
    assert float(drifting.variance) == pytest.approx(0.25**2 / 2, rel=0.05)


@pytest.mark.parametrize("nothing", [0.0, math.inf, math.nan])
def test_zero_inf_and_nan_change_no_statistics(nothing: float) -> None:
    before, later = seen([8.0, 1.0]), seen([8.0, 1.0], [nothing, 1.0])
    assert [float(field[0]) for field in before] == [float(field[0]) for field in later]


def test_the_loudest_layer_counts_with_its_variance_and_the_quietest_with_its_mean() -> None:
    layers = Layers(
        torch.tensor([3.0, 2.0, math.nan]), torch.tensor([0.0, 4.0, 1.0]), torch.tensor([3.0, 1.0, math.nan])
    )
    assert float(loss_scale.loudest(layers)) == 2 + loss_scale.DEVIATIONS * 2
    assert float(loss_scale.quietest(layers)) == 2


def test_before_any_layer_was_seen_nothing_is_loud_or_quiet() -> None:
    layers = loss_scale.unseen_layers(3, CPU)
    assert float(loss_scale.loudest(layers)) == -math.inf
    assert float(loss_scale.quietest(layers)) == math.inf
    assert after(14, -math.inf, math.inf)[0] == 15


def test_the_scale_leaves_the_loudest_layer_its_headroom() -> None:
    assert after(10, loud=5.5)[0] == math.floor(loss_scale.LARGEST_FP16 - loss_scale.HEADROOM - 5.5) == 9


def test_the_scale_stays_at_the_usual_where_nothing_asks_for_more() -> None:
    assert after(16, loud=-10, quiet=-15)[0] == 16


def test_a_quiet_layer_raises_the_scale_bit_by_bit_up_to_what_the_loudest_allows() -> None:
    assert after(16, loud=-10, quiet=-30)[0] == 17
    assert after(24, loud=-10, quiet=-30)[0] == 24
    assert after(17, loud=-30, quiet=-21.5)[0] == 17  # 20 bits above 2**-24 would be 17.5


def test_one_overflow_halves_the_scale_and_those_in_a_row_cut_it_ever_more() -> None:
    scales, scale, learnt = [], 10.0, caution()
    for _ in range(5):
        scale, learnt = after(scale, loud=2, overflow=YES, of=learnt)
        scales.append(scale)
    assert scales == [9, 7, 3, -5, -13]


def test_an_overflow_drops_the_scale_at_once_to_what_the_finite_layers_say() -> None:
    assert after(10, loud=13.5, overflow=YES)[0] == 1


def test_an_overflow_that_was_not_foreseen_becomes_margin() -> None:
    _, learnt = after(10, loud=4, overflow=YES)
    safe = loss_scale.LARGEST_FP16 - loss_scale.HEADROOM - 4
    assert float(learnt.margin) == pytest.approx(safe - 9)
    assert after(9, loud=4, of=learnt)[0] == 9  # it does not grow back into the same overflow


def test_margin_is_given_back_one_bit_in_an_interval() -> None:
    assert float(after(9, loud=4, of=caution(margin=2))[1].margin) == pytest.approx(2 - 1 / INTERVAL)
    assert float(after(9, loud=4, of=caution(margin=0))[1].margin) == 0


def test_only_the_first_overflow_of_a_row_becomes_margin() -> None:
    assert float(after(-5, loud=4, overflow=YES, of=caution(margin=1, skipped=3))[1].margin) == 1


def test_a_lone_nan_costs_a_bit_for_one_update_and_teaches_nothing() -> None:
    scale, learnt = after(10, loud=4, overflow=YES, nan=YES)
    assert (scale, float(learnt.margin)) == (9, 0)
    assert after(scale, loud=4, of=learnt)[0] == 10


def test_nan_again_soon_after_is_taken_for_an_overflow() -> None:
    assert float(after(10, loud=4, overflow=YES, nan=YES, of=caution(since=2))[1].margin) > 0


@pytest.mark.parametrize("whole", range(int(loss_scale.LOWEST), int(loss_scale.HIGHEST) + 1))
def test_every_scale_is_a_power_of_two_to_the_bit(whole: int) -> None:
    scale = loss_scale.power_of_two(bits(whole))
    assert float(scale) == 2.0**whole
    assert float(loss_scale.whole_bits(scale)) == whole


sizes = st.floats(-60, 60)


@given(scale=sizes, loud=sizes, quiet=sizes, overflow=st.booleans(), nan=st.booleans(), margin=st.floats(0, 60))
def test_the_scale_stays_whole_and_within_its_bounds_and_grows_by_a_bit_at_most(
    scale: float, loud: float, quiet: float, overflow: bool, nan: bool, margin: float
) -> None:
    scale = float(math.floor(max(loss_scale.LOWEST, min(scale, loss_scale.HIGHEST))))
    chosen, learnt = after(
        scale, loud, quiet, torch.tensor(overflow), torch.tensor(nan and overflow), caution(margin=margin)
    )
    assert chosen == math.floor(chosen)
    assert loss_scale.LOWEST <= chosen <= loss_scale.HIGHEST
    assert chosen <= scale + 1
    assert not overflow or chosen < scale or chosen == loss_scale.LOWEST
    assert float(learnt.margin) >= 0
