# SPDX-License-Identifier: AGPL-3.0-or-later
"""grad_clip=max_rank on two gloo ranks: an update is clipped by the largest norm that stock's DDP would have on a rank before it averages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.dist.ranks import run
from tests.dist.test_two_ranks import BOXES, join
from tests.unit.engine.tiny import assert_equal_gradients, batch, gradients, model, step
from yolov12 import settings
from yolov12.data.order import GHOST
from yolov12.engine import rank_norms
from yolov12.memory.micro_batch import split

WAYS: dict[str, dict[str, Any]] = {
    "one": {"seeds": [0]},
    "two": {"seeds": [0, 1]},  # of an update with accumulation
    "scaled": {"seeds": [0], "scale": 1024.0, "updates": 2},  # the second update knows nothing of the first
    "ghost": {"seeds": [0], "ghost": True},
    "below": {"seeds": [0], "limit": 1e9},
}


def shares(seed: int) -> list[dict[str, Any]]:
    """Of two ranks: the first has ten boxes in its images, the second sixteen."""
    return split(batch(BOXES, seed=seed), 2)


def own_norm(rank: int, seeds: list[int]) -> float:
    """Of the gradient that ultralytics' loop has under DDP on this rank before it averages: its own loss, times two ranks (engine/trainer.py:553)."""
    of = model()
    for seed in seeds:
        loss, _ = of(shares(seed)[rank])
        (2 * loss.sum()).backward()
    return float(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])))


def whole(seeds: list[int]) -> dict[str, Tensor]:
    """What one process with the whole batch would hand to the optimizer."""
    of = model()
    runner = step(of)
    for seed in seeds:
        runner.run(batch(BOXES, seed=seed))
    runner.take_gradients()
    return gradients(of)


def norm_of(of: dict[str, Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in of.values()])))


def _in_every_way(rank: int) -> dict[str, dict[str, Tensor]]:
    """What the optimizer gets, in each of the ways that `WAYS` says."""
    group = join()

    def taken(
        seeds: list[int], scale: float = 1.0, ghost: bool = False, updates: int = 1, limit: float = 1.0
    ) -> dict[str, Tensor]:
        rank_norms.MAX_NORM = limit
        of = model()
        runner = step(of, vote_group=group)
        runner.scale_loss = lambda loss: loss * scale
        runner.rank_norms = rank_norms.RankNorms(runner.parameters)
        for _ in range(updates):
            for seed in seeds:
                mine = shares(seed)[rank]
                if ghost:
                    mine = batch(BOXES, seed=seed) if rank == 0 else {**batch([4], seed=9), GHOST: (True,)}
                runner.run(mine)
            runner.take_gradients()
            found = {name: gradient / scale for name, gradient in gradients(of).items()}
            of.zero_grad(set_to_none=True)
        return found

    return {name: taken(**way) for name, way in WAYS.items()}


@pytest.fixture(scope="module")
def clipped() -> list[dict[str, dict[str, Tensor]]]:
    """What both ranks hand to the optimizer; but for one way every norm is above the limit of 1."""
    return run(_in_every_way, 2)


@pytest.mark.parametrize("how", ["one", "two", "scaled"])
def test_the_largest_of_the_ranks_own_norms_decides(clipped, how: str) -> None:
    seeds = WAYS[how]["seeds"]
    norms = [own_norm(rank, seeds) for rank in (0, 1)]
    assert min(norms) > 1.0
    assert max(norms) > 1.001 * min(norms)
    expected = {name: gradient / (max(norms) + rank_norms.LEAST) for name, gradient in whole(seeds).items()}
    for answer in clipped:
        assert_equal_gradients(answer[how], expected, rtol=1e-5)


def test_both_ranks_make_the_same_update_bit_for_bit(clipped) -> None:
    assert_equal_gradients(clipped[1]["one"], clipped[0]["one"], rtol=0)


def test_a_rank_without_an_image_does_not_decide(clipped) -> None:
    """The other rank has the whole batch, and DDP's factor of two."""
    reduced = whole([0])
    expected = {name: gradient / (2 * norm_of(reduced)) for name, gradient in reduced.items()}
    assert_equal_gradients(clipped[0]["ghost"], expected, rtol=1e-5)


def test_below_the_limit_nothing_changes(clipped) -> None:
    for answer in clipped:
        assert_equal_gradients(answer["below"], whole([0]), rtol=1e-5)


def test_what_a_resumed_run_had_gathered_counts_as_each_ranks_own() -> None:
    norms = rank_norms.RankNorms([torch.zeros(2), torch.zeros(3)])
    norms.own[0].fill_(1.0)
    norms.own[1].fill_(1.0)
    norms.go_on_from([torch.full((2,), 7.0), None])
    assert [own.tolist() for own in norms.own] == [[7.0, 7.0], [0.0, 0.0, 0.0]]


def test_it_is_for_several_ranks_and_only_when_asked(monkeypatch, capfd) -> None:
    assert rank_norms.if_asked([torch.zeros(1)], ranks=2) is None
    monkeypatch.setenv("YOLOV12_GRAD_CLIP", "max_rank")
    assert settings.current().grad_clip == "max_rank"
    assert rank_norms.if_asked([torch.zeros(1)], ranks=1) is None
    assert "grad_clip: max_rank -> global: there is one process" in "".join(capfd.readouterr())
    assert isinstance(rank_norms.if_asked([torch.zeros(1)], ranks=2), rank_norms.RankNorms)
