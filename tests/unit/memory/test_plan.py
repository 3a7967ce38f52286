# SPDX-License-Identifier: AGPL-3.0-or-later
"""The memory plan as arithmetic: what is in use in each phase, and which blocks are dropped for a budget."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import chain as chained
from itertools import combinations
from random import Random
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov12.memory.micro_batch import split
from yolov12.memory.plan import Block, Chunked, Profile, choose, everything, first_needed, peaks

SIZE = 100
NO_BOXES = torch.zeros(0)


def chain(outputs: int, fixed: int = 10) -> Profile:
    """Blocks of equal size, each computed from the one before."""
    blocks = tuple(Block(f"b{i}", SIZE, 1.0, (i - 1,) if i else ()) for i in range(outputs))
    phases = (fixed + outputs * SIZE, *(fixed + (outputs - i) * SIZE for i in range(outputs)))
    return Profile(blocks, fixed, phases)


def test_dropping_nothing_changes_nothing():
    profile = chain(4)
    assert tuple(peaks(profile, ())) == profile.peaks


def test_a_dropped_block_is_there_again_for_the_one_that_reads_it():
    assert first_needed(chain(3), {0})[0] == 2  # phases: loss, backward of b2, of b1, of b0
    assert list(peaks(chain(3), {0})) == [210, 210, 210, 110]


def test_a_block_is_needed_earlier_if_the_one_that_reads_it_is_computed_again_too():
    assert first_needed(chain(3), {0, 1})[:2] == [1, 1]


def test_dropping_everything_saves_nothing_once_backward_has_begun():
    profile = chain(4)
    found = peaks(profile, everything(profile).dropped)
    assert found[0] == profile.peaks[0] - 4 * SIZE
    assert list(found[1:]) == list(profile.peaks[1:])


def test_an_input_is_made_for_one_backward_only():
    blocks = (
        Block("a", SIZE, 1.0, ()),
        Block("b input", SIZE, 1.0, (0,), is_input=True),
        Block("b", SIZE, 1.0, (1,)),
        Block("c input", SIZE, 1.0, (2,), is_input=True),
        Block("c", SIZE, 1.0, (3,)),
    )
    profile = Profile(blocks, 0, (500, 500, 0, 300, 0, 100))
    assert list(peaks(profile, {1, 3}))[:2] == [300, 400]


def test_what_fits_is_left_alone():
    plan = choose(chain(4), 1000)
    assert (plan.dropped, plan.parts, plan.fits) == (frozenset(), 1, True)


def test_the_cheaper_of_two_blocks_is_dropped():
    blocks = (
        Block("dear", SIZE, 5.0, ()),
        Block("cheap", SIZE, 1.0, ()),
        Block("last", SIZE, 1.0, (0, 1), may_drop=False),
    )
    profile = Profile(blocks, 0, (300, 250, 200, 100))
    assert choose(profile, 250).dropped == {1}


def test_a_block_that_may_not_be_dropped_is_kept():
    blocks = tuple(Block(f"b{i}", SIZE, 1.0, (), may_drop=False) for i in range(3))
    assert choose(Profile(blocks, 0, (300, 300, 200, 100)), 100).fits is False


def test_checkpoints_are_kept_in_between_where_dropping_everything_would_not_do():
    profile = chain(16, fixed=0)
    plan = choose(profile, 9 * SIZE)
    assert plan.fits
    assert 0 < len(plan.dropped) < 16


def test_the_batch_is_cut_only_where_recomputation_is_not_enough():
    profile = chain(8, fixed=0)
    assert choose(profile, 7 * SIZE, most_parts=8).parts == 1
    assert choose(profile, 2 * SIZE, most_parts=8).parts > 1


def test_what_does_not_grow_with_the_images_stays_whole_in_a_part():
    part = chain(4, fixed=40).part(2)
    assert part.fixed_bytes == 40
    assert part.peaks[0] == 40 + 4 * SIZE // 2


def test_weights_and_their_gradients_stay_whole_in_a_part_which_comes_after_another():
    whole = Profile((Block("a", 80, 1.0, ()),), 100, (200, 220), of_weights=(10, 30))
    half = whole.part(2)
    assert half.peaks == (100 + 30 + 90 // 2, 100 + 30 + 90 // 2)
    assert half.of_weights == (30, 30)
    assert whole.part(1) is whole


def test_a_budget_below_the_fixed_bytes_fits_nothing():
    assert choose(chain(4, fixed=500), 400, most_parts=4).fits is False


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    count = draw(st.integers(1, 12))
    blocks = []
    for i in range(count):
        inputs = tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))) if i else ()
        blocks.append(Block(f"b{i}", draw(st.integers(0, 50)), draw(st.floats(0.1, 10)), inputs, draw(st.booleans())))
    alive, phases = sum(block.kept_bytes for block in blocks), []
    for block in [None, *reversed(blocks)]:
        phases.append(alive + draw(st.integers(0, 20)))
        alive -= block.kept_bytes if block else 0
    return Profile(tuple(blocks), 0, tuple(phases))


@given(profiles(), st.integers(0, 700), st.integers(1, 4))
def test_a_plan_keeps_its_word(profile: Profile, budget: int, most_parts: int):
    plan = choose(profile, budget, most_parts)
    assert plan.peak_bytes == peaks(profile.part(plan.parts), plan.dropped).max()
    assert plan.fits == (plan.peak_bytes <= budget)
    assert all(profile.blocks[i].may_drop for i in plan.dropped)
    assert 1 <= plan.parts <= most_parts


@given(profiles())
def test_with_room_nothing_is_dropped(profile: Profile):
    assert not choose(profile, max(profile.peaks)).dropped


def test_a_plan_in_words_has_what_runs_again_and_what_is_needed():
    profile = chain(4)
    text = choose(profile, 350).words(profile)
    assert "convolutions and 0 inputs" in text
    assert text.endswith("GiB)")


def test_chunked_work_of_the_loss_counts_up_to_its_bound():
    room = Chunked(whole_bytes=500, chunk_bytes=200, counted_bytes=50)
    profile = replace(chain(4), chunked=room)
    assert peaks(profile, ())[0] == chain(4).peaks[0] + 150
    assert list(peaks(profile, ())[1:]) == list(chain(4).peaks[1:])


def test_a_part_of_the_images_has_less_chunked_work_but_not_below_its_bound():
    room = Chunked(whole_bytes=800, chunk_bytes=200, counted_bytes=100)
    assert [room.part(Fraction(1, parts)).more_bytes() for parts in (1, 2, 8)] == [100, 150, 88]


@given(images=st.integers(1, 300), parts=st.integers(1, 300))
def test_a_part_is_as_large_as_the_largest_that_the_batch_is_cut_into(images: int, parts: int):
    parts = min(parts, images)
    profile = replace(chain(4, fixed=0), images=images)
    largest = max(len(part["img"]) for part in split({"img": torch.zeros(images), "batch_idx": NO_BOXES}, parts))
    assert profile.share_of(parts) == Fraction(largest, images)
    assert profile.part(parts).peaks[0] == 400 * largest // images


def test_an_uneven_cut_is_planned_for_its_larger_parts():
    """Three images in two parts: one of them has two."""
    blocks = tuple(replace(block, may_drop=False) for block in chain(3).blocks)
    profile = replace(chain(3, fixed=0), blocks=blocks, images=3)
    assert [choose(profile, budget, most_parts=3).parts for budget in (200, 199, 150)] == [2, 3, 3]


def drawn(random: Random) -> Profile:
    """A small network whose blocks differ in size and cost, some of which read two others."""
    blocks: list[Block] = []
    for i in range(random.randint(4, 8)):
        inputs = {random.randint(max(0, i - 3), i - 1) for _ in range(random.randint(1, 2))} if i else set()
        blocks.append(Block(f"b{i}", random.randint(20, 200), random.uniform(0.5, 3.0), tuple(sorted(inputs))))
    alive = sum(block.kept_bytes for block in blocks)
    phases = [alive + random.randint(0, 50)]
    for block in reversed(blocks):
        phases.append(alive + random.randint(0, 2 * block.kept_bytes))
        alive -= block.kept_bytes
    return Profile(tuple(blocks), 0, tuple(phases))


def least_cost(profile: Profile, budget: int) -> float | None:
    """Of all plans that fit, by trying each; None if none does."""
    everywhere = range(len(profile.blocks))
    plans = chained.from_iterable(combinations(everywhere, count) for count in range(len(profile.blocks) + 1))
    return min(
        (sum(profile.blocks[i].cost for i in plan) for plan in plans if peaks(profile, plan).max() <= budget),
        default=None,
    )


def test_the_greedy_plan_costs_little_more_than_the_best_one_and_is_found_where_there_is_one():
    random, ratios = Random(0), []
    for _ in range(150):
        profile = drawn(random)
        budget = int(max(profile.peaks) * random.uniform(0.45, 0.95))
        best, plan = least_cost(profile, budget), choose(profile, budget)
        assert plan.fits is (best is not None)
        if best:
            ratios.append(plan.cost(profile) / best)
    assert len(ratios) > 50
    assert mean(ratios) < 1.05
    assert max(ratios) < 2.0


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_part_needs_its_share(parts: int):
    assert chain(4, fixed=0).part(parts).peaks[0] == 400 // parts
