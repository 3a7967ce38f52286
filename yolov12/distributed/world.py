# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who takes part in a run: read from the launcher's environment, joined once, left once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from yolov12.errors import PeerFailedError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among the processes of the run."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    is_launched: bool = False
    """Whether a launcher such as torchrun started this process, be it as the only rank."""

    @property
    def is_alone(self) -> bool:
        """Whether this process trains by itself, without process groups. ultralytics' loaders want a group wherever RANK is set."""
        return not self.is_launched


def from_environment(environ: Mapping[str, str] = os.environ) -> World:
    """The world that torchrun described in RANK, WORLD_SIZE and LOCAL_WORLD_SIZE; a world of one without them."""

    def number(name: str, default: int) -> int:
        return int(environ.get(name) or default)

    size = number("WORLD_SIZE", 1)
    return World(number("RANK", 0), size, number("LOCAL_WORLD_SIZE", size), "RANK" in environ)


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
