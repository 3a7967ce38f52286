# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long a rank waits for the others: for one that says that it saves a checkpoint, long; for one that is gone, the timeout; and it says why.

gloo knows one timeout for all of it. Here a collective among the ranks' main threads is begun with a very long one and waited for in slices;
between them the peers' signs (pulse.py) are judged.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from yolov12.distributed import pulse
from yolov12.distributed.pulse import Pulse, Seen, Sign
from yolov12.errors import PeerFailedError

LONG_WORK_S = 4 * 3600.0
"""How long declared work may take. A rank that does it shows that it lives, so this only ends what is stuck in it."""
SLICE_S = 0.25
STOPPED = "training stopped"
FIRST_NEWS_S, NEWS_S = 10.0, 30.0
"""When a rank that waits first says for whom, and how often after that."""


class Judge:
    """Decides while this rank waits. Pure: fed with what was seen, and with the time.

    Args:
        timeout_s: how long a peer may neither come nor show that it works.
        now_s: when the wait began.
        step: that this rank is in. Each has a vote, so a peer that is missing is in it, too, whatever its last sign said.
        kept_by_rank_0: whether rank 0's process keeps the signs; else that is the launcher of the first machine.
    """

    def __init__(self, timeout_s: float, now_s: float, step: int, kept_by_rank_0: bool = False) -> None:
        self.kept_by_rank_0 = kept_by_rank_0
        self.timeout_s, self.began_s, self.step = timeout_s, now_s, step
        self.excused_s = now_s
        """When a peer was last seen doing declared work: others may be late because of it."""
        self.works_since_s: dict[int, tuple[str, float]] = {}

    def why_not_wait(self, seen: dict[int, Seen], now_s: float) -> str | None:
        """The reason to give up; None to go on waiting."""
        for rank, peer in seen.items():
            if peer.sign.words:
                return said(rank, peer.sign)
        for rank, peer in seen.items():
            if peer.age_s > self.timeout_s:
                return f"{at(rank, self.step, peer.sign)} gave no sign of life for {self.timeout_s:g} s"
            self._note(rank, peer.sign, now_s)
            _, since_s = self.works_since_s.get(rank, ("", now_s))
            if now_s - since_s > LONG_WORK_S:
                return f"{at(rank, self.step, peer.sign)}: more than {LONG_WORK_S / 3600:g} hours"
        if now_s - self.excused_s <= self.timeout_s:
            return None
        if not seen and self.kept_by_rank_0:
            silent = f"rank 0 (step {self.step}) gave no sign of life for {self.timeout_s:g} s"
            return f"{silent}, nor could those of other ranks be read, which its process keeps"
        if not seen:
            unseen = f"no other rank came, and no sign of life of any could be read, for {self.timeout_s:g} s (step {self.step})"
            return f"{unseen}: is the first machine cut off?"
        late = [at(rank, self.step, peer.sign) for rank, peer in seen.items() if not peer.sign.waits]
        return f"{' and '.join(late) or 'another rank'} did not come for {self.timeout_s:g} s"

    def news(self, seen: dict[int, Seen], now_s: float) -> str:
        """For whom this rank waits, as a line."""
        late = {rank: peer.sign for rank, peer in seen.items() if not peer.sign.waits}
        who = "; ".join(f"rank {rank}: {sign.doing or f'step {self.step}'}" for rank, sign in sorted(late.items()))
        return f"waiting for {who or 'the other ranks'}, {now_s - self.began_s:.0f} s"

    def _note(self, rank: int, sign: Sign, now_s: float) -> None:
        if not sign.doing:
            self.works_since_s.pop(rank, None)
            return
        self.excused_s = now_s
        if self.works_since_s.get(rank, ("", 0.0))[0] != sign.doing:
            self.works_since_s[rank] = (sign.doing, now_s)


def at(rank: int, step: int, sign: Sign) -> str:
    """The rank and where it is."""
    return f"rank {rank} (step {step}{f', {sign.doing}' if sign.doing else ''})"


def said(rank: int, sign: Sign) -> str:
    """A rank's last words."""
    return f"rank {rank} failed at step {sign.step}: {sign.words}"


def wait(work: dist.Work, group: dist.ProcessGroup) -> None:
    """Wait for a collective on the CPU that was begun with `async_op=True`. Without a pulse, as long as the group's own timeout says.

    Raises:
        PeerFailedError: a peer is gone, failed, or did not come; which one, at which step, and why.
    """
    beat = pulse.current()
    try:
        if _is_done(work, SLICE_S if beat else None):
            return
        assert beat is not None
        with beat.waiting():
            _wait_with_patience(work, beat)
    except RuntimeError as error:  # from gloo: a connection was closed
        raise PeerFailedError(explained(beat, str(error).splitlines()[0])) from error
    except PeerFailedError:
        _leave_alone(group)
        raise


def collect(answer: Any, group: dist.ProcessGroup) -> list[Any]:
    """Every rank's answer in the order of ranks. Every rank must call it.

    Args:
        answer: small: it is pickled.
        group: on the CPU.

    Raises:
        PeerFailedError: as `wait`.
    """
    packed = torch.frombuffer(bytearray(pickle.dumps(answer)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    wait(dist.all_gather(sizes, torch.tensor([len(packed)]), group=group, async_op=True), group)
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(packed)] = packed
    texts = [torch.zeros_like(padded) for _ in sizes]
    wait(dist.all_gather(texts, padded, group=group, async_op=True), group)
    return [pickle.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(texts, sizes, strict=True)]


def spread(answer: Any, group: dist.ProcessGroup) -> Any:
    """Rank 0's answer, on every rank. Every rank must call it.

    Args:
        answer: of any size: it is pickled, and only rank 0's travels.
        group: on the CPU.

    Raises:
        PeerFailedError: as `wait`.
    """
    packed = bytearray(pickle.dumps(answer)) if dist.get_rank() == 0 else bytearray()
    size = torch.tensor([len(packed)])
    wait(dist.broadcast(size, 0, group=group, async_op=True), group)
    content = torch.frombuffer(packed, dtype=torch.uint8) if packed else torch.zeros(int(size), dtype=torch.uint8)
    wait(dist.broadcast(content, 0, group=group, async_op=True), group)
    return pickle.loads(content.numpy().tobytes())


def _wait_with_patience(work: dist.Work, beat: Pulse) -> None:
    began_s = time.monotonic()
    judge = Judge(beat.timeout_s, began_s, beat.step, beat.kept_by_rank_0)
    next_news_s = began_s + FIRST_NEWS_S
    while not _is_done(work, SLICE_S):
        now_s, seen = time.monotonic(), {} if beat.is_cut_off else beat.seen()
        if (reason := judge.why_not_wait(seen, now_s)) is not None:
            raise PeerFailedError(f"{STOPPED}: {reason}")
        if now_s >= next_news_s:
            next_news_s = now_s + NEWS_S
            if beat.rank < min((rank for rank, peer in seen.items() if peer.sign.waits), default=beat.size):
                print(judge.news(seen, now_s), file=sys.stderr, flush=True)  # by one rank: rank 0 may be the late one


def _is_done(work: dist.Work, slice_s: float | None) -> bool:
    """Wait for so long, None for ever; whether it is done.

    Raises:
        RuntimeError: it failed.
    """
    try:
        work.wait() if slice_s is None else work.wait(timedelta(seconds=slice_s))
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # it ended since: this raises what went wrong, if anything did
    return True


def explained(beat: Pulse | None, error: str) -> str:
    """Who broke a connection: a rank that left its reason, else the one whose pulse stopped.

    Args:
        error: what the library said.
    """
    seen: dict[int, Seen] = {}
    if beat is not None:
        until_s = time.monotonic() + 3.5 * beat.interval_s
        with beat.waiting():
            while time.monotonic() < until_s:
                time.sleep(beat.interval_s / 4)
                seen = beat.seen()
                # One that only heard of another's failure is not the cause.
                words = {rank: peer.sign for rank, peer in seen.items() if peer.sign.words}
                for rank in sorted(words, key=lambda rank: words[rank].words.startswith(STOPPED)):
                    return f"{STOPPED}: {said(rank, words[rank])}"
        if beat.is_cut_off:  # what was seen before says nothing of who is left
            keeper = "rank 0" if beat.kept_by_rank_0 else "the first machine"
            return f"{STOPPED}: {keeper} (step {beat.step}) is gone without a word ({error})"
        gone = [at(rank, beat.step, peer.sign) for rank, peer in seen.items() if peer.age_s > 2 * beat.interval_s]
        if gone and len(gone) < len(seen) + (len(seen) == 1):
            how = "gave no sign of life" if "timed out" in error.lower() else "is gone without a word"
            return f"{STOPPED}: {' and '.join(gone)} {how} ({error})"
    return f"another process did not take part: {error}"


def _leave_alone(group: dist.ProcessGroup) -> None:
    """Never destroy this group: its thread waits for a peer, and its destructor, at exit, would wait for that thread. It ends with the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
