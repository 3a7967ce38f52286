# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gradients as bf16 between two gloo ranks: half the bytes, and what rounding takes away comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.dist.ranks import run
from tests.dist.test_two_ranks import join
from yolov12.distributed import reduce
from yolov12.distributed.reduce import Reducer

STEPS = 200


def _summed(rank: int, feedback: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over the steps of what came out, and of what exact arithmetic gives; the gradients are two thirds in different units."""
    generator = torch.Generator().manual_seed(rank)
    constant = torch.randn(2, 7, generator=generator)
    reducer = Reducer([constant], compresses=True)
    total = torch.zeros(2, 7)
    for step in range(STEPS):
        unit = 1024.0 if step % 3 else 1.0  # as a loss scale that changes
        gradient, counts = constant * unit, torch.tensor([1.0, 3.0])
        reducer.sum([gradient], counts, unit)
        total += gradient / unit
        if not feedback:
            reducer.forget()
    both = [torch.randn(2, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    return total / STEPS, both[0] + both[1]


def _trained(rank: int, how: str) -> torch.Tensor:
    """The weights of a small network after 150 steps on this rank's half of fixed data."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(64, 8)
    y = (x[:, :1] * x[:, 1:2]).sin()
    parameters = list(network.parameters())
    reducer = Reducer(parameters, compresses=how != "in full")
    for _ in range(150):
        loss = (network(x[rank::2]) - y[rank::2]).square().mean() / 2
        gradients = list(torch.autograd.grad(loss, parameters))
        reducer.sum(gradients, torch.ones(2))
        if how == "without feedback":
            reducer.forget()
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-0.2)
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def _with_overflow(rank: int) -> list[torch.Tensor]:
    """An infinite gradient on one rank, then a finite one."""
    reducer = Reducer([torch.zeros(3)], compresses=True)
    first, second = torch.tensor([1.0, float("inf") if rank else 1.0, 1.0]), torch.ones(3)
    for gradient in (first, second):
        reducer.sum([gradient], torch.ones(2))
    return [first, second]


def _sent(compresses: bool) -> int:
    gradients = [torch.ones(1000), torch.ones(50, 20)]
    reducer = Reducer(gradients, compresses=compresses)
    reducer.sum(gradients, torch.ones(2))
    return reducer.bytes_sent


def _room_at_the_second_try(rank: int) -> list[float]:
    """A list of another shape, whose buffers there was no memory for at first."""
    reducer, make = Reducer([torch.zeros(3)], compresses=True), reduce.Compression
    calls = iter(range(10))

    def fails_at_first(*arguments: Any) -> Any:
        if next(calls) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(*arguments)

    gradient = torch.full((5,), rank + 1.0)
    reduce.Compression = fails_at_first
    try:
        with pytest.raises(torch.OutOfMemoryError):
            reducer.make_room([gradient])
        reducer.make_room([gradient])
    finally:
        reduce.Compression = make
    reducer.sum([gradient], torch.ones(2))
    return gradient.tolist()


def _everything(rank: int) -> dict[str, Any]:
    join()
    return {
        "summed": {feedback: _summed(rank, feedback) for feedback in (True, False)},
        "trained": {how: _trained(rank, how) for how in ("in full", "with feedback", "without feedback")},
        "overflow": _with_overflow(rank),
        "room": _room_at_the_second_try(rank),
        "sent": (_sent(True), _sent(False)),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What each of two ranks found, from one start of the processes."""
    return run(_everything, 2)


def test_half_the_bytes_travel(ranks: list[dict]) -> None:
    compressed, full = ranks[0]["sent"]
    counts = 8  # two float32 of counts, always in full
    assert full - counts == 8000
    assert compressed - counts == 4000


def test_with_feedback_the_mean_over_steps_is_exact_and_without_it_is_not(ranks: list[dict]) -> None:
    def error(feedback: bool) -> float:
        got, exact = ranks[0]["summed"][feedback]
        return float((got - exact).norm() / exact.norm())

    assert error(True) < 1e-4
    assert error(False) > 5 * error(True)


def test_a_training_ends_near_the_one_in_full_precision_and_nearer_than_without_feedback(ranks: list[dict]) -> None:
    ended = ranks[0]["trained"]

    def distance(how: str) -> float:
        return float((ended[how] - ended["in full"]).norm() / ended["in full"].norm())

    assert distance("with feedback") < 1e-3
    assert distance("without feedback") > 1.5 * distance("with feedback")


def test_all_ranks_have_the_same_bits(ranks: list[dict]) -> None:
    first, second = (rank["trained"]["with feedback"] for rank in ranks)
    assert torch.equal(first, second)


def test_an_overflow_is_seen_by_all_and_leaves_nothing_behind(ranks: list[dict]) -> None:
    for overflowed, after in (rank["overflow"] for rank in ranks):
        assert not overflowed[1].isfinite()
        assert torch.equal(after, torch.full((3,), 2.0))


def test_room_that_could_not_be_made_is_made_at_the_next_try(ranks: list[dict]) -> None:
    assert [rank["room"] for rank in ranks] == [[3.0] * 5] * 2
