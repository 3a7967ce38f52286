# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two gloo ranks on the CPU: they leave a validation together, and one with synchronised batch norm ends instead of repeating."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tests.dist.ranks import run
from tests.dist.test_two_ranks import OUT_OF_MEMORY, join
from tests.unit.engine.tiny import batch, model, step
from yolov12.engine.validation_memory import ValidationLeft, surviving
from yolov12.errors import PeerFailedError, RetryableError
from yolov12.memory.history import History


def _validates(rank: int) -> str:
    """The second rank has a bug in its forward pass; gathering without it would wait for ever."""
    group = join()

    def forward(img: torch.Tensor) -> torch.Tensor:
        if rank == 1:
            raise ValueError("a bug")
        return img

    validator: Any = SimpleNamespace(
        init_metrics=lambda of: None, preprocess=None, postprocess=None, gather_stats=dist.barrier
    )
    of = SimpleNamespace(forward=forward)
    with surviving(validator, History(), group):
        validator.init_metrics(of)
        of.forward(torch.zeros(2, 1))
        validator.gather_stats()
    return "gathered"


def test_a_rank_that_fails_in_validation_ends_the_others_with_its_reason() -> None:
    first, second = run(_validates, 2)
    assert isinstance(first, PeerFailedError)
    assert "rank 1: ValueError: a bug" in str(first)
    assert isinstance(second, ValueError)


def _is_asked_to_end(rank: int, harm: str) -> list[str]:
    """The second rank hears a signal in its first batch; the first one has made its own by then, unless it fails."""
    group, done = join(), []

    def preprocess(one: str) -> None:
        if harm and rank == 0:
            raise ValueError(harm)
        done.append(one)

    validator: Any = SimpleNamespace(
        init_metrics=lambda of: None,
        preprocess=preprocess,
        postprocess=None,
        gather_stats=lambda: done.append("gathered"),
    )
    try:
        with surviving(validator, History(), group, lambda: rank == 1):
            validator.init_metrics(SimpleNamespace(forward=None))
            validator.preprocess("batch")
            validator.gather_stats()
    except ValidationLeft:
        done.append("left")
    return done


def test_all_ranks_leave_a_validation_in_which_one_is_asked_to_end() -> None:
    assert run(_is_asked_to_end, 2, "") == [["batch", "left"], ["left"]]


def test_a_failure_beside_it_is_what_all_hear_of() -> None:
    first, second = run(_is_asked_to_end, 2, "a bug")
    assert isinstance(first, ValueError)
    assert isinstance(second, PeerFailedError)


def _synchronised(rank: int) -> None:
    group = join()
    of = model()
    of.model[0].bn = nn.SyncBatchNorm(16)
    runner = step(of, vote_group=group)

    def forward(one: dict[str, Any]) -> Any:
        raise OUT_OF_MEMORY

    runner.forward_loss = forward
    if rank == 1:  # the first is in its forward pass, where it would wait for this one
        runner.run(batch([1, 1]))


def test_with_synchronised_batch_norm_the_run_ends_without_a_vote() -> None:
    ended = run(_synchronised, 2)[1]
    assert isinstance(ended, RetryableError)
    assert "synchronised batch norm" in str(ended)
    assert ended.exit_code == 75
