# SPDX-License-Identifier: AGPL-3.0-or-later
"""Digests tell equal tensors from different ones; who is slow is told once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolov12.distributed.agree import Digests, Fingerprints, first_difference
from yolov12.distributed.flat import FlatBuffers
from yolov12.distributed.stragglers import Stragglers


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=generator) for shape in [(300,), (7, 5, 3, 3), (), (11, 13)]]
    return [*plain, plain[1].clone(memory_format=torch.channels_last), torch.randn(9, generator=generator).double()]


def digests(of: list[Tensor]) -> Digests:
    made = Fingerprints(FlatBuffers(of, bucket_bytes=1000)).of(of)
    return [(float(product), float(norm)) for product, norm in made]


def test_equal_tensors_have_equal_digests_in_their_order_whatever_the_layout() -> None:
    ours = digests(tensors())
    assert ours == digests(tensors())
    assert first_difference([ours, ours, ours]) is None
    assert [norm for _, norm in ours] == pytest.approx([float(t.norm()) for t in tensors()], rel=1e-6)


@given(st.lists(st.sampled_from([1, 3, 4095, 4096, 4097, 12288, 20000]), min_size=1, max_size=5))
def test_products_are_of_whole_tensors_however_large(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    of = [torch.randn(size, generator=generator) for size in sizes]
    fingerprints = Fingerprints(FlatBuffers(of))
    signs = fingerprints._signs.double()
    assert set(signs.tolist()) <= {-1.0, 1.0}
    first, expected = 0, []
    for tensor in of:
        expected.append(float(tensor.double() @ signs[first : first + len(tensor)]))
        first += len(tensor)
    assert fingerprints.of(of)[:, 0].tolist() == pytest.approx(expected, abs=1e-3)


@given(st.integers(0, 5), st.integers(0, 2), st.integers(0, 10**6))
def test_one_flipped_sign_on_one_of_three_ranks_is_found_and_named(place: int, rank: int, where: int) -> None:
    changed = tensors()
    flat = changed[place].view(-1) if changed[place].is_contiguous() else changed[place].permute(0, 2, 3, 1).reshape(-1)
    if changed[place].is_contiguous():
        flat[where % len(flat)] *= -1
    else:
        changed[place][0, 0, 0, 0] *= -1
    ranks = [digests(tensors()) for _ in range(3)]
    ranks[rank] = digests(changed)
    found = first_difference(ranks)
    assert found is not None
    assert found[:2] == (place, rank)
    distance = float((changed[place] - tensors()[place]).norm() / tensors()[place].norm())
    assert found[2] == pytest.approx(distance, rel=1e-3)


def test_rounding_between_kinds_of_gpu_is_no_difference() -> None:
    nearly = [tensor * (1 + 1e-7) for tensor in tensors()]
    assert first_difference([digests(tensors()), digests(nearly)]) is None


def test_nan_on_one_rank_is_a_difference_and_on_all_is_none() -> None:
    broken = tensors()
    broken[3][0, 0] = math.nan
    assert first_difference([digests(tensors()), digests(broken)]) == (3, 1, math.inf)
    assert first_difference([digests(broken), digests(broken)]) is None


def test_what_is_given_back_is_what_was_taken() -> None:
    room, given_back = FlatBuffers(tensors(), bucket_bytes=500), [torch.zeros_like(t) for t in tensors()]
    room.take(tensors())
    room.give(given_back)
    assert all(torch.equal(one, other) for one, other in zip(given_back, tensors(), strict=True))


def test_a_slow_rank_is_told_once_after_three_checks() -> None:
    ours, slow = Stragglers(), [100.0, 101.0, 130.0, 99.0]
    assert [ours.look(slow) is not None for _ in range(5)] == [False, False, True, False, False]
    assert ours.look([100.0, 101.0, 102.0, 99.0]) is None
    told = [ours.look(slow) for _ in range(3)][-1]
    assert told == "distributed: the others wait for rank 2: 130 ms for a step and its data, where the median is 100 ms"


def test_turns_at_being_the_slowest_are_not_told() -> None:
    ours = Stragglers()
    assert [ours.look([100.0, 150.0] if i % 2 else [150.0, 100.0]) for i in range(8)] == [None] * 8
