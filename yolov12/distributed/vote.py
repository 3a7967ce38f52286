# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ask all ranks whether an attempt succeeded, before any of them enters a collective that needs all of them.

Out of memory on one rank is the common case: its peers would otherwise wait in the all-reduce of the gradients for a rank that is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.distributed as dist

from yolov12.distributed.patience import collect, wait


class Wish(IntEnum):
    """What a rank wants to happen after this attempt. The strongest of all ranks' wishes counts."""

    GO_ON = 0
    STOP = 1
    """End the run in order: evaluate what was reached."""
    TERMINATE = 2
    """End it now: a scheduler takes the machine away."""


@dataclass(frozen=True)
class Verdict:
    """What the ranks said of one attempt."""

    reasons: dict[int, str]
    """Rank -> why it failed; empty where all succeeded."""
    wish: Wish = Wish.GO_ON

    @property
    def all_succeeded(self) -> bool:
        return not self.reasons

    def first(self) -> str:
        """The failure of the lowest rank, as one line."""
        rank = min(self.reasons)
        return f"rank {rank}: {self.reasons[rank]}"


def vote(failure: str | None, group: dist.ProcessGroup | None, wish: Wish = Wish.GO_ON) -> Verdict:
    """Tell all ranks whether this one failed, and learn the same of them. Every rank must call it once per attempt.

    Args:
        failure: None for success, else the reason in one line.
        group: a CPU group; None for a single process.
        wish: this rank's; the verdict has the strongest.

    Raises:
        PeerFailedError: a peer did not vote: it ended, or neither came nor showed that it works (patience.py).
    """
    if group is None:
        return Verdict({} if failure is None else {0: failure}, wish)
    flags = torch.tensor([failure is not None, wish], dtype=torch.int32)
    wait(dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=group, async_op=True), group)
    any_failed, strongest = flags.tolist()  # a CPU tensor: nothing waits for the GPU
    if not any_failed:
        return Verdict({}, Wish(strongest))
    # Objects are pickled and sent only after a failure; the common path is the eight bytes above.
    said = collect(failure, group)
    return Verdict({rank: reason for rank, reason in enumerate(said) if reason is not None}, Wish(strongest))


def smallest(number: int, group: dist.ProcessGroup | None) -> int:
    """The least of what the ranks say. Every rank must call it; None for a single process.

    Raises:
        PeerFailedError: as `vote`.
    """
    if group is None:
        return number
    said = torch.tensor(number)
    wait(dist.all_reduce(said, op=dist.ReduceOp.MIN, group=group, async_op=True), group)
    return int(said)
