# SPDX-License-Identifier: AGPL-3.0-or-later
"""The processes of a run: joined once, asked, left once. Who they are says launchers.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from yolov12.distributed import launchers
from yolov12.distributed.launchers import DEFAULT_PORT, World
from yolov12.errors import PeerFailedError, RetryableError, UserError
from yolov12.log import say

__all__ = ["World", "from_all", "from_environment", "from_first", "join", "leave"]

T = TypeVar("T")
PROGRESS_S = 10.0


def from_environment(environ: Mapping[str, str] | None = None) -> World:
    """The world that torchrun, or a launcher that was understood, described; a world of one without it."""
    return launchers.of_process(environ)


def join(world: World, device: torch.device, timeout_s: int, rendezvous_timeout_s: int) -> dist.ProcessGroup:
    """Enter the run's process groups: NCCL for GPU tensors and gloo for votes, or gloo for both on the CPU.

    Args:
        timeout_s: how long a vote may take before it counts as hung; other collectives get the longer of the two.
        rendezvous_timeout_s: how long to wait for peers that are not there yet.

    Returns:
        The group for votes: gloo on the CPU, so that votes never queue behind, or get lost among, the collectives of a GPU stream.

    Raises:
        UserError: MASTER_PORT is taken.
        RetryableError: not all ranks came in time.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        with _waiting_for_peers(world, max(timeout_s, rendezvous_timeout_s)):
            dist.init_process_group(
                backend,
                rank=world.rank,
                world_size=world.size,
                timeout=timedelta(seconds=max(timeout_s, rendezvous_timeout_s)),
                # Naming the device makes NCCL connect now, where a failure is easy to read, and not inside the first step.
                device_id=device if device.type == "cuda" else None,
            )
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


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
        PeerFailedError: another rank ended, or did not call it in time.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return answer
    said = [answer]
    try:
        dist.broadcast_object_list(said, 0)
    except RuntimeError as error:
        raise PeerFailedError(f"another process did not take part: {str(error).splitlines()[0]}") from error
    return said[0]


def from_all(answer: T, group: dist.ProcessGroup | None) -> list[T]:
    """Every rank's answer in the order of ranks, on every rank; this one's alone without a group. Every rank must call it.

    Args:
        answer: small: it is pickled.
        group: on the CPU; None for a single process.

    Raises:
        PeerFailedError: another rank ended, or did not call it in time.
    """
    if group is None:
        return [answer]
    said: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(said, answer, group=group)
    except RuntimeError as error:
        raise PeerFailedError(f"another process did not take part: {str(error).splitlines()[0]}") from error
    return said


def leave() -> None:
    """Leave all groups; nothing to do where none was joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
