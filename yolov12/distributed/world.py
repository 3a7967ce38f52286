# SPDX-License-Identifier: AGPL-3.0-or-later
"""The processes of a run: joined once, asked, left once. Who they are says launchers.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from yolov12.distributed import arrival, flight, launchers, pulse
from yolov12.distributed.arrival import PROGRESS_S
from yolov12.distributed.launchers import DEFAULT_PORT, World
from yolov12.distributed.patience import collect, spread, wait
from yolov12.errors import RetryableError, UserError
from yolov12.log import say

__all__ = ["World", "from_all", "from_environment", "from_first", "is_joined", "join", "leave", "meet"]

T = TypeVar("T")

FOREVER = timedelta(days=1)

_votes: dist.ProcessGroup | None = None
"""The group that `join` made last; None while there is none."""
_has_begun = False
"""Whether `join` was called and `leave` was not: `join` may fail between its groups."""


def from_environment(environ: Mapping[str, str] | None = None) -> World:
    """The world that torchrun, or a launcher that was understood, described; a world of one without it."""
    return launchers.of_process(environ)


def join(world: World, device: torch.device, timeout_s: int, rendezvous_timeout_s: int) -> dist.ProcessGroup:
    """Enter the run's process groups: NCCL for GPU tensors and gloo for votes, or gloo for both on the CPU.

    Args:
        timeout_s: how long a collective may take, and how long a rank may neither vote nor show that it works, before it counts as hung.
        rendezvous_timeout_s: how long to wait for peers that are not there yet.

    Returns:
        The group for votes: gloo on the CPU, so that votes never queue behind, or get lost among, the collectives of a GPU stream.

    Raises:
        UserError: MASTER_PORT is taken, or some ranks are on the CPU and others on a GPU.
        RetryableError: not all ranks came in time.
    """
    global _votes, _has_begun
    _has_begun = True
    rendezvous = timedelta(seconds=max(timeout_s, rendezvous_timeout_s))
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        limit_s = rendezvous.total_seconds()
        with _waiting_for_peers(world, limit_s):
            store, _, _ = next(dist.rendezvous("env://", world.rank, world.size, timeout=rendezvous))
            store.set_timeout(rendezvous)
        arrival.of_ranks(store, world, device.type, limit_s)
        if backend == "nccl":
            flight.record()
        with _waiting_for_peers(world, limit_s):
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("default_pg", store),  # as torch has it with a store that it makes
                rank=world.rank,
                world_size=world.size,
                timeout=rendezvous,
                # Naming the device makes NCCL connect now, where a failure is easy to read, and not inside the first step.
                device_id=device if device.type == "cuda" else None,
            )
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s))
        pulse.begin(dist.distributed_c10d._get_default_store(), world.rank, world.size, timeout_s)
    _votes = dist.new_group(backend="gloo", timeout=rendezvous)
    # Who waits here judges its peers by their pulse (patience.py).
    dist.distributed_c10d._set_pg_timeout(FOREVER, _votes)
    return _votes


def is_joined() -> bool:
    """Whether this process is in the groups that `join` made."""
    return _votes is not None


def meet() -> None:
    """Wait until every rank is here, as `vote` does; nothing to do where no group was joined.

    Raises:
        PeerFailedError: another rank ended, or neither came nor showed that it works.
    """
    if _votes is not None:
        wait(dist.all_reduce(torch.zeros(1), group=_votes, async_op=True), _votes)


@contextmanager
def _waiting_for_peers(world: World, timeout_s: float, progress_s: float = PROGRESS_S) -> Iterator[None]:
    """A line now and then while torch waits for the other ranks, and its errors in our words."""
    joined = threading.Event()

    def report() -> None:
        waited_s = 0.0
        while not joined.wait(progress_s):
            waited_s += progress_s
            say(f"launch: rank {world.rank} of {world.size} waits for the others, {waited_s:.0f} of {timeout_s:g} s")

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"MASTER_PORT={world.port or DEFAULT_PORT} is taken on this machine: set another one for all ranks"
            ) from error
        raise RetryableError(
            f"rank {world.rank} of {world.size} waited for the others at {world.address}:{world.port}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        joined.set()


def from_first(answer: T) -> T:
    """Rank 0's answer, on every rank; its own where no group was joined. Every rank must call it.

    Raises:
        PeerFailedError: another rank ended, or neither called it nor showed that it works.
    """
    return answer if _votes is None else spread(answer, _votes)


def from_all(answer: T, group: dist.ProcessGroup | None) -> list[T]:
    """Every rank's answer in the order of ranks, on every rank; this one's alone without a group. Every rank must call it.

    Args:
        answer: small: it is pickled.
        group: on the CPU; None for a single process.

    Raises:
        PeerFailedError: another rank ended, or neither called it nor showed that it works.
    """
    return [answer] if group is None else collect(answer, group)


def leave(failed: bool = False) -> None:
    """Leave all groups; nothing to do where none was joined: a script may have groups of its own.

    Args:
        failed: whether this rank leaves others behind: NCCL's collectives are then given up instead of waited for.
    """
    global _votes, _has_begun
    has_begun, _has_begun, _votes = _has_begun, False, None
    pulse.end()
    if not (has_begun and dist.is_available() and dist.is_initialized()):
        return
    if failed and dist.get_backend() == "nccl":
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()
