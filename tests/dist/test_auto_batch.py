# SPDX-License-Identifier: AGPL-3.0-or-later
"""`batch=-1` on two ranks with unequal room: both take the number that fits on the smaller one, or both end. gloo; the memory is made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.dist.ranks import run
from yolov12.distributed import world
from yolov12.engine import auto_batch, fit
from yolov12.engine.last_words import telling_the_others
from yolov12.errors import PeerFailedError, UserError
from yolov12.memory import budget
from yolov12.memory.budget import Memory

GIB = 2**30
IMAGE_BYTES = 50 * 2**20


def upstreams() -> int:
    raise AssertionError("upstream's AutoBatch is not needed")


class Labels:
    labels = ({"cls": [0] * 5},) * 1000

    def __len__(self) -> int:
        return len(self.labels)


def _batch_of_a_rank(rank: int, fails_on: int | None, data_fail_on: int | None = None) -> int:
    group = world.join(world.from_environment(), torch.device("cpu"), timeout_s=60, rendezvous_timeout_s=60)
    free = (10 * GIB, 5 * GIB)[rank]

    def largest(*_: Any, **options: Any) -> int:
        return min(int(options["budget_bytes"]) // IMAGE_BYTES, options["most_images"])

    def read(device: torch.device) -> Memory:
        if rank == fails_on:
            raise RuntimeError("CUDA error: the launch timed out")
        return Memory(free, 0, 0, free)

    def build(*_: Any, **__: Any) -> Labels:
        if rank == data_fail_on:
            raise UserError("no labels were found")
        return Labels()

    auto_batch.LOCAL_RANK = rank  # type: ignore[attr-defined]  # of one machine: the first one reads the data set first
    fit.largest_batch, budget.read, auto_batch.kernels_missing = largest, read, lambda device: None
    trainer = SimpleNamespace(
        batch_size=-1,
        world_size=2,
        device=torch.device("cuda", rank),
        vote_group=group,
        args=SimpleNamespace(imgsz=640, multi_scale=0.0, mosaic=1.0, compile=False, cache=False),
        data={"train": "images"},
        build_dataset=build,
        model=torch.nn.Linear(2, 2),
        amp_dtype=torch.bfloat16,
        stride=32,
    )
    with telling_the_others():  # as around a rank's whole training
        return auto_batch.batch_of(trainer, upstreams)  # as much of a trainer as is read


def test_all_ranks_take_what_fits_on_the_smallest() -> None:
    each = 3 * GIB // IMAGE_BYTES
    assert run(_batch_of_a_rank, 2, None) == [2 * each, 2 * each]


@pytest.mark.parametrize("fails_on", [0, 1])
def test_where_one_can_not_look_at_its_memory_none_goes_on(fails_on: int) -> None:
    answers = run(_batch_of_a_rank, 2, fails_on)
    assert "the launch timed out" in str(answers[fails_on])
    assert isinstance(answers[1 - fails_on], PeerFailedError)
    assert f"rank {fails_on}: RuntimeError: CUDA error: the launch timed out" in str(answers[1 - fails_on])


@pytest.mark.parametrize("fails_on", [0, 1])
def test_where_one_can_not_read_the_data_set_each_says_why(fails_on: int) -> None:
    """The others wait for the first one to have read it, which is no vote."""
    answers = run(_batch_of_a_rank, 2, None, fails_on)
    assert isinstance(answers[fails_on], UserError)
    assert isinstance(answers[1 - fails_on], PeerFailedError)
    assert "no labels were found" in str(answers[1 - fails_on])
