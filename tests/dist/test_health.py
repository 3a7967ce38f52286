# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two gloo ranks compare every ten steps what must be equal, and end together with the name of what is not."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from tests.dist.ranks import run
from tests.dist.test_sync_bn import SMALL
from tests.dist.test_two_ranks import join
from tests.unit.engine.tiny import batch, model, step
from yolov12.distributed.stragglers import CHECKS
from yolov12.distributed.sync_bn import synchronise
from yolov12.engine import health as health_module
from yolov12.engine.health import EVERY_STEPS, Health
from yolov12.engine.optimizer_state import allocate
from yolov12.errors import RetryableError
from yolov12.memory.micro_batch import split

NAME = "model.1.conv.weight"


def _trained(rank: int, group: Any, harm: str) -> tuple[str, int, str]:
    """What was raised, after how many steps, and why the weights are lost if they are."""
    of = model(frozen_batch_norm=harm != "statistics", config=SMALL)
    if harm == "statistics":
        synchronise(of)
    optimizer = torch.optim.SGD(of.parameters(), lr=1e-4, momentum=0.9)
    allocate(optimizer)
    runner = step(of, vote_group=group)
    health = Health(runner, optimizer, "resume=last.pt")
    weight: nn.Parameter = dict(of.named_parameters())[NAME]
    try:
        for number in range(1, 2 * EVERY_STEPS + 2):
            if number == EVERY_STEPS - 1 and rank == 1:
                with torch.no_grad():
                    if harm == "weight":
                        weight[0, 0, 0, 0] *= -1
                    if harm == "momentum":
                        optimizer.state[weight]["momentum_buffer"].mul_(1.01)
                    if harm == "statistics":
                        of.model[0].bn.running_mean.add_(0.1)
            health.begin_step()
            one = split(batch([2, 1], seed=number), 2)[rank]
            if harm == "not finite" and number == 3 and rank == 1:
                one["img"][:] = torch.nan
            health.after_step(runner.run(one))
            runner.take_gradients()
            optimizer.step()
    except RetryableError as error:
        return str(error), health.steps, health.lost
    return "", health.steps, health.lost


def _slow(rank: int, group: Any) -> list[str]:
    """What is said while the second rank takes long for each step, and the first one waits for it in the vote."""
    of, said = model(frozen_batch_norm=True, config=SMALL), []
    runner = step(of, vote_group=group)
    health = Health(runner, torch.optim.SGD(of.parameters(), lr=0.0), "")
    health_module.say = said.append
    one = split(batch([2, 1]), 2)[rank]
    for _ in range((CHECKS + 1) * EVERY_STEPS):
        health.begin_step()
        time.sleep(0.1 * rank)
        health.after_step(runner.run(one))
        runner.take_gradients()
    return said


def _everything(rank: int) -> dict[str, Any]:
    group = join()
    found: dict[str, Any] = {
        harm: _trained(rank, group, harm) for harm in ("none", "weight", "momentum", "statistics", "not finite")
    }
    return found | {"slow": _slow(rank, group)}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, tuple[str, int, str]]]:
    """What each of two ranks met, from one start of the processes."""
    return run(_everything, 2)


def test_equal_ranks_go_on(ranks: list[dict]) -> None:
    assert [rank["none"] for rank in ranks] == [("", 2 * EVERY_STEPS + 1, "")] * 2


@pytest.mark.parametrize(
    ("harm", "what"),
    [("weight", f"the weight {NAME}"), ("statistics", "the buffer model.0.bn.running_mean")],
)
def test_what_differs_is_named_on_all_ranks_one_step_after_the_check(ranks: list[dict], harm: str, what: str) -> None:
    for said, steps, _ in (rank[harm] for rank in ranks):
        assert said.startswith(f"rank 1 and the others differ in {what} at step {EVERY_STEPS}, by ")
        assert said.endswith("resume=last.pt")
        assert steps == EVERY_STEPS + 1


def test_a_difference_in_the_optimizers_state_is_found(ranks: list[dict]) -> None:
    for said, _, _ in (rank["momentum"] for rank in ranks):
        assert NAME in said


def test_a_rank_that_the_others_wait_for_is_named_once(ranks: list[dict]) -> None:
    for said in (rank["slow"] for rank in ranks):
        (line,) = said
        assert line.startswith("distributed: the others wait for rank 1: 1")
        assert "ms for a step and its data, where the median is" in line


def test_a_loss_that_is_not_finite_is_one_decision_and_names_the_rank_and_step(ranks: list[dict]) -> None:
    for said, _, lost in (rank["not finite"] for rank in ranks):
        assert said == ""
        assert lost == "rank 1, step 3: its loss was not finite, and now the weights are not finite either"
