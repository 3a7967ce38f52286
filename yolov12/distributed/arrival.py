# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waiting for who is not there yet, with a line now and then on who that is; and whether the ranks that came are to train on one kind of device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch.distributed as dist

from yolov12.distributed.agreement import differences
from yolov12.distributed.launchers import World
from yolov12.errors import RetryableError, UserError
from yolov12.log import say

PROGRESS_S = 10.0
POLL_S = 0.2
LAST_READ_S = 5.0


class Waiting:
    """One time limit for all that is waited for, and a line on what it is now and then."""

    def __init__(self, timeout_s: float, progress_s: float = PROGRESS_S) -> None:
        self.timeout_s, self.progress_s = timeout_s, progress_s
        self.began_s = time.monotonic()
        self.say_next_s = progress_s

    def until(self, happened: Callable[[], bool], what: Callable[[], str]) -> None:
        while not happened():
            waited_s = time.monotonic() - self.began_s
            if waited_s > self.timeout_s:
                raise RetryableError(
                    f"waited {self.timeout_s:g} s for {what()}: start it, or set YOLOV12_RDZV_TIMEOUT_S to wait longer"
                )
            if waited_s > self.say_next_s:
                self.say_next_s += self.progress_s
                say(f"launch: waiting for {what()}, {waited_s:.0f} of {self.timeout_s:g} s")
            time.sleep(POLL_S)


def of_ranks(store: dist.Store, world: World, device: str, timeout_s: float) -> None:
    """Wait until every rank is at the store, before they make their groups.

    Args:
        device: the type of this rank's. Ranks on GPUs and ranks on CPUs would make groups of two kinds, and wait in those for each other until
            their time is over. So it goes where the driver of one machine is broken, which then trains on its CPU.

    Raises:
        UserError: the ranks are on different kinds of devices.
        RetryableError: a rank did not come in time, or the one that keeps the store is gone.
    """
    keys = [f"yolov12/device/{rank}" for rank in range(world.size)]
    where = f"of {world.size} at {world.address}:{world.port}"

    def missing() -> str:
        return f"rank {', '.join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))} {where}"

    try:
        store.set(keys[world.rank], device)
        Waiting(timeout_s).until(lambda: store.check(keys), missing)
        found = differences([{"device": bytes(store.get(key)).decode()} for key in keys])
        if found:
            _let_all_read(store, world)
    except RuntimeError as error:  # the connection is closed: DistNetworkError and its like
        raise RetryableError(f"rank 0 {where} ended before all ranks were there") from error
    if found:
        raise UserError(
            f"the ranks of this run differ in device ({found['device']}): type device= on all machines, or look with `yolov12 doctor` why one of "
            "them has no GPU"
        )


def _let_all_read(store: dist.Store, world: World) -> None:
    """Where rank 0's process keeps the store, it stays until the others have found out, too."""
    key = "yolov12/device/read"
    store.add(key, 1)
    until_s = time.monotonic() + LAST_READ_S
    while world.rank == 0 and store.add(key, 0) < world.size and time.monotonic() < until_s:
        time.sleep(POLL_S)
