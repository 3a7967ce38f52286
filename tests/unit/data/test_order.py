# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each sample once per epoch, whatever the number of ranks, and from any place in the epoch."""

from __future__ import annotations

import pickle
import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov12.data.order import GHOST, Endless, Order, Plan, Seeded, Share

SIZES = {"samples": st.integers(1, 60), "batch": st.integers(1, 20), "ranks": st.integers(1, 5)}


def plans(samples: int, batch: int, ranks: int, **more: bool) -> list[Plan]:
    return [Plan(samples, batch, seed=3, rank=rank, ranks=ranks, **more) for rank in range(ranks)]


def batches_of_all(of_ranks: list[Plan], epoch: int, seen: int = 0) -> list[list[int]]:
    """Each batch, put together from the ranks' shares; a ghost is no part of it."""
    cut = zip(*(plan.shares(epoch, seen) for plan in of_ranks), strict=True)
    return [[index for share in shares if not share.is_ghost for index in share] for shares in cut]


@given(**SIZES)
def test_an_epoch_has_each_sample_once_in_full_batches_but_the_last(samples: int, batch: int, ranks: int) -> None:
    of_ranks = plans(samples, batch, ranks)
    batches = batches_of_all(of_ranks, epoch=2)
    assert sorted(index for one in batches for index in one) == list(range(samples))
    assert all(len(one) == min(batch, samples) for one in batches[:-1])
    assert len(batches) == of_ranks[0].batches()
    assert sum(plan.of_rank() for plan in of_ranks) == samples


@given(**SIZES)
def test_batches_are_those_of_one_rank_and_shares_differ_by_one_image(samples: int, batch: int, ranks: int) -> None:
    assert batches_of_all(plans(samples, batch, ranks), 4) == batches_of_all(plans(samples, batch, 1), 4)
    for shares in zip(*(plan.shares(4) for plan in plans(samples, batch, ranks)), strict=True):
        sizes = [0 if share.is_ghost else len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert all(share for share in shares), "every rank has an image to take part with"


@given(**SIZES, cut=st.integers(0, 60), other=st.integers(1, 5))
def test_an_epoch_goes_on_from_any_place_on_another_number_of_ranks(
    samples: int, batch: int, ranks: int, cut: int, other: int
) -> None:
    before, after = plans(samples, batch, ranks), plans(samples, batch, other)
    whole = batches_of_all(before, 1)
    done = min(cut, len(whole))
    seen = before[0].seen_after(0, done)
    assert whole[:done] + batches_of_all(after, 1, seen) == whole
    assert after[0].batches(seen) == len(whole) - done


@given(samples=st.integers(1, 40), batch=st.integers(1, 12))
def test_a_last_batch_that_is_not_full_is_dropped_on_request_unless_it_is_the_only_one(
    samples: int, batch: int
) -> None:
    plan = Plan(samples, batch, drop_last=True)
    sizes = [len(share) for share in plan.shares(0)]
    assert sizes == [min(batch, samples)] * plan.batches()
    assert len(sizes) == max(samples // batch, 1)


def test_epochs_and_seeds_have_orders_of_their_own_and_repeat() -> None:
    orders = {
        (seed, epoch): tuple(Plan(50, 5, seed=seed).permutation(epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(Plan(50, 7, seed=1, ranks=2).permutation(2))


def test_without_shuffling_the_order_is_the_data_sets() -> None:
    assert [list(share) for share in Plan(5, 2, shuffle=False).shares(7)] == [[0, 1], [2, 3], [4]]


def test_the_sampler_begins_where_it_is_told() -> None:
    order = Order(Plan(10, 4, seed=1))
    order.set_epoch(3)
    whole = list(order)
    order.set_epoch(3, seen=4)
    assert list(order) == whole[4:]
    assert len(order) == 10


def test_the_endless_sampler_goes_over_into_the_next_epoch() -> None:
    plan = Plan(5, 2, seed=1)
    order = Order(plan)
    order.set_epoch(6, seen=4)
    stream = iter(Endless(order))
    assert next(stream) == next(plan.shares(6, 4))
    assert next(stream) == next(plan.shares(7))


class Draws:
    """A data set whose samples are what the three generators say."""

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"index": index, "drawn": (random.random(), np.random.rand(), float(torch.rand(())))}


def test_a_samples_random_numbers_depend_on_its_place_alone() -> None:
    seeded = Seeded(Draws())
    alone = [sample for share in Plan(12, 6).shares(2) for sample in seeded(share)]
    of_three = [sample for share in Plan(12, 6, rank=1, ranks=3).shares(2) for sample in seeded(share)]
    assert of_three == [*alone[2:4], *alone[8:10]]
    assert len({sample["drawn"] for sample in alone}) == 12


def test_drawing_samples_leaves_the_generators_as_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        return random.random(), np.random.rand(), float(torch.rand(()))

    expected = drawn()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    Seeded(Draws())(next(Plan(4, 4).shares(0)))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


def test_a_rank_without_an_image_borrows_one_that_is_marked() -> None:
    *_, last = Plan(5, 4, rank=1, ranks=2).shares(0)
    assert last.is_ghost
    assert [sample[GHOST] for sample in Seeded(Draws())(last)] == [True]
    assert len(list(Order(Plan(5, 4, rank=1, ranks=2)))) == 2, "the sampler gives no ghosts"


def test_a_share_reaches_a_worker_with_its_seeds() -> None:
    share = Share([3, 1], [(0, 1, 2), (0, 1, 3)])
    sent = pickle.loads(pickle.dumps(share))
    assert (sent, sent.seeds, sent.is_ghost) == (share, share.seeds, False)
