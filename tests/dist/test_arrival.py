# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranks that come to a run: all of them on one kind of device, or none trains; and one that does not come is named."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.dist.ranks import run
from yolov12.distributed import arrival, world
from yolov12.distributed.launchers import World
from yolov12.errors import RetryableError, UserError


def _joins(rank: int) -> None:
    """The last of three has a GPU, so it says."""
    world.join(
        world.from_environment(), torch.device("cuda" if rank == 2 else "cpu"), timeout_s=60, rendezvous_timeout_s=60
    )


def test_ranks_on_cpus_and_gpus_end_at_once_and_all_say_which_is_which() -> None:
    for ended in run(_joins, 3, timeout_s=50):
        assert isinstance(ended, UserError), ended
        assert "differ in device (cpu on ranks 0-1; cuda on rank 2): type device= on all machines" in str(ended)


def test_ranks_that_do_not_come_are_named() -> None:
    here = World(1, 4, 2, True, address="gpu01", port=29500)
    store = dist.HashStore()
    store.set("yolov12/device/2", "cpu")
    with pytest.raises(
        RetryableError,
        match=r"waited 0\.4 s for rank 0, 3 of 4 at gpu01:29500: start it, or set YOLOV12_RDZV_TIMEOUT_S",
    ):
        arrival.of_ranks(store, here, "cpu", timeout_s=0.4)
