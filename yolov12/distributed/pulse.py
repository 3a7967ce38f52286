# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each rank's sign of life: once a second a thread writes down at which step it is, what takes long, and its last words when it fails.

It goes through the run's store, the small server that the ranks found each other by. The thread keeps on while the main one saves, scans or
compiles, and stops with the process, so that peers can tell a rank that is busy from one that is gone (patience.py). The main thread never
waits for the store: where the network is cut, that could last for ever.

Under torchrun and our own launcher, that of the first machine keeps the store. Under Slurm and MPI rank 0 does, and takes it away when it ends.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch.distributed as dist

INTERVAL_S = 1.0
LAST_WORDS_S = 2.0
"""How long a rank that failed waits for its words to be written."""
STOPPING_S = 2.0
"""How long the end of a process waits for a beat that is under way; a store that is gone answers later than anybody would wait."""
LINGER_S = 5.0
"""How long rank 0, where it keeps the store, stays for the others to hear its last words."""


@dataclass(frozen=True)
class Sign:
    """What a rank last told of itself."""

    beat: int = 0
    step: int = 0
    doing: str = ""
    """Declared work that takes long; "" in a step."""
    waits: bool = False
    """Whether it waits for others."""
    words: str = ""
    """Why it failed; "" while it has not."""


@dataclass(frozen=True)
class Seen:
    """A peer's sign, and how long ago it last changed, by this process's clock."""

    sign: Sign
    age_s: float


class Pulse:
    """Writes this rank's signs and, while somebody waits, reads those of the others.

    Args:
        store: of the run; this object uses a connection of its own.
        rank, size: of this process among the run's.
        timeout_s: how long a peer may neither come nor show that it works; at least five signs are given in that time.
        kept_by_rank_0: whether the store ends with rank 0.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout_s: float, kept_by_rank_0: bool = False) -> None:
        self.rank, self.size, self.timeout_s, self.kept_by_rank_0 = rank, size, timeout_s, kept_by_rank_0
        self.is_cut_off = False
        """Whether the store is gone for good, and who keeps it."""
        self.interval_s = min(INTERVAL_S, timeout_s / 5)
        self.step = 0
        """The step that this rank is in, counted from the start of this process. The trainer sets it."""
        self._store = dist.PrefixStore("yolov12/pulse", store.clone())  # type: ignore[attr-defined]  # not in torch's stubs
        self._store.set_timeout(timedelta(seconds=30))
        self._doing: list[str] = []
        self._words, self._waits, self._beats = "", 0, 0
        self._peers: dict[int, tuple[Sign, float]] = {}
        self._wake, self._told = threading.Event(), threading.Event()
        self._is_over = False
        self._beat()  # from here on others can read it
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to beat. Every rank must have been constructed by the time that another one waits for it."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and let a beat that is under way end, for a moment: a thread inside the store while Python ends aborts the process."""
        self._is_over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOPPING_S)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Declare work that takes long: others wait for it with patience, and print `what`."""
        self._doing.append(what)
        self._wake.set()
        try:
            yield
        finally:
            self._doing.remove(what)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While entered, the others' signs are read."""
        self._waits += 1
        now_s = time.monotonic()
        self._peers = {rank: (sign, now_s) for rank, (sign, _) in self._peers.items()}
        self._wake.set()
        try:
            yield
        finally:
            self._waits -= 1

    def say_last(self, words: str) -> None:
        """Leave the reason for this rank's end where the others find it."""
        self._words = words
        self._told.clear()
        self._wake.set()
        if self._thread.is_alive():
            self._told.wait(LAST_WORDS_S)
        if self.kept_by_rank_0 and self.rank == 0:
            self._linger()

    def seen(self) -> dict[int, Seen]:
        """Every peer's sign as it was last read."""
        now_s = time.monotonic()
        return {rank: Seen(sign, now_s - changed_s) for rank, (sign, changed_s) in self._peers.items()}

    def _linger(self) -> None:
        """Until each of the others has ended with last words of its own, or is gone."""
        until_s = time.monotonic() + min(LINGER_S, self.timeout_s)
        with self.waiting():
            while time.monotonic() < until_s and self._thread.is_alive():
                time.sleep(self.interval_s / 4)
                seen = self.seen()
                if len(seen) == self.size - 1 and all(peer.sign.words for peer in seen.values()):
                    return

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._beat()
                if self._waits:
                    self._look()
            except dist.DistNetworkError:  # closed at the other end: it stays so, and torch prints a trace for each try
                self.is_cut_off = True
                return
            except (RuntimeError, ValueError):  # nothing changes any more, and that is what others go by
                self._wake.wait(self.interval_s)
            self._wake.wait(self.interval_s)
            self._wake.clear()

    def _beat(self) -> None:
        words, waits = self._words, self._waits > 0
        self._beats += 1
        sign = Sign(self._beats, self.step, "" if waits else "".join(self._doing[-1:]), waits, words)
        self._store.set(str(self.rank), json.dumps(asdict(sign)))
        if words:
            self._told.set()

    def _look(self) -> None:
        peers = [rank for rank in range(self.size) if rank != self.rank]
        texts = self._store.multi_get([str(rank) for rank in peers])
        now_s, before = time.monotonic(), self._peers
        read = {rank: Sign(**json.loads(text)) for rank, text in zip(peers, texts, strict=True)}
        self._peers = {
            rank: before[rank] if rank in before and before[rank][0] == sign else (sign, now_s)
            for rank, sign in read.items()
        }


_current: Pulse | None = None


def begin(store: dist.Store, rank: int, size: int, timeout_s: float) -> None:
    """Start this process's pulse."""
    global _current
    launchers_own = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torch/distributed/rendezvous.py
    _current = Pulse(store, rank, size, timeout_s, kept_by_rank_0=not launchers_own)
    _current.start()
    atexit.register(end)  # for a process that ends without leaving its groups


def end() -> None:
    """Stop it; nothing to do where none was started."""
    global _current
    if _current is not None:
        _current.stop()
        atexit.unregister(end)
    _current = None


def current() -> Pulse | None:
    """This process's; None for a single process."""
    return _current


@contextmanager
def doing(what: str) -> Iterator[None]:
    """`Pulse.doing` of this process, if it has one."""
    if _current is None:
        yield
        return
    with _current.doing(what):
        yield


def at_step(number: int) -> None:
    """Note the step that this process is in."""
    if _current is not None:
        _current.step = number


def where() -> str:
    """` at step 12`, as a part of a message; "" without a pulse."""
    return f" at step {_current.step}" if _current is not None else ""


def last_words(words: str) -> None:
    """`Pulse.say_last` of this process, if it has one."""
    if _current is not None:
        _current.say_last(words)
