# SPDX-License-Identifier: AGPL-3.0-or-later
"""The processes of a run: joined once, asked, left once. Who they are says launchers.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from yolov12.distributed import launchers
from yolov12.distributed.launchers import World
from yolov12.errors import PeerFailedError

__all__ = ["World", "from_all", "from_environment", "from_first", "join", "leave"]

T = TypeVar("T")


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
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=max(timeout_s, rendezvous_timeout_s)),
            # Naming the device makes NCCL connect now, where a failure is easy to read, and not inside the first step.
            device_id=device if device.type == "cuda" else None,
        )
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


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
