# SPDX-License-Identifier: AGPL-3.0-or-later
"""A pool of processes that read pictures into memory which this one shares with them (slots.py): threads would compete with the training loop for
Python's lock.

A picture has a slot from the moment a process is asked for it until it was copied away. What a process does not read plainly, and what one that
ended had been asked for, is refused: reading it the other way is the caller's.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from yolov12.data import reader
from yolov12.data.loader.fetch import Fetched
from yolov12.data.loader.slots import Slots
from yolov12.log import warn

AT_ONCE = 4
"""Pictures of one request: few enough that a batch is spread evenly, and that one answer does not wait for many files."""
SOURCES = str(Path(__file__).resolve().parents[3])
START = """
import signal, sys
for number in signal.SIGINT, signal.SIGTERM, signal.SIGUSR1: signal.signal(number, signal.SIG_IGN)
import contextlib, mmap, os, struct, cv2, numpy
sys.path.insert(0, sys.argv[1])
from yolov12.data import reader
reader.main(sys.argv[2:])
"""
"""What a process runs. Signals to a group of processes are for the parent, which ends its readers itself. The package is the parent's own, which may
be a checkout that is not installed; all else is found first, so that nothing beside the package stands in for it."""

_pools: weakref.WeakSet[ReaderPool] = weakref.WeakSet()


@dataclass(eq=False)
class Child:
    """One reading process."""

    process: subprocess.Popen[bytes]
    requests: int
    """Descriptor of the pipe to it."""
    answers: int
    """Descriptor of the pipe from it."""
    room: int
    """Bytes of requests that lie in the pipe without making the writer wait."""
    asked: dict[int, int] = field(default_factory=dict)
    """Indices of the pictures that it has not answered, with the bytes of their requests."""
    unread: bytes = b""
    """The beginning of an answer."""

    def has_room_for(self, size: int) -> bool:
        return not self.asked or sum(self.asked.values()) + size <= self.room

    def close(self) -> None:
        """Close the pipes' ends in this process."""
        for name in ("requests", "answers"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)


class ReaderPool:
    """Reads pictures side by side. Only one thread may call its methods, but for `stop`.

    Args:
        files: paths of the pictures, by index.
        imgsz: length of their long side in pixels.
        count: of processes.
        slots: for pictures that are asked for and not yet copied away.
        device: where the pictures go.

    Raises:
        OSError: the memory can not be had or pinned, or a process not be started.
    """

    def __init__(self, files: Sequence[str], imgsz: int, count: int, slots: int, device: torch.device) -> None:
        self._files = files
        self._waiting: dict[int, None] = {}
        """Asked for, in order, and not handed to a process yet."""
        self._slot_of: dict[int, int] = {}
        """Of all that was handed to one, until it is taken."""
        self._answers: dict[int, tuple[int, ...]] = {}
        """Of those that were not taken yet."""
        self._taken: list[int] = []
        """Slots whose pictures were given to the caller."""
        self._is_ending = False
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._slots = Slots(slots, 3 * imgsz**2, device)
        try:
            for _ in range(count):
                self._children.append(_start(self._slots, imgsz))
                self._selector.register(self._children[-1].answers, selectors.EVENT_READ, self._children[-1])
            self._slots.pin()
        except BaseException:
            self.close(1.0)
            raise
        _pools.add(self)

    def __contains__(self, index: int) -> bool:
        """Whether it was asked for and not taken."""
        return index in self._slot_of or index in self._answers or index in self._waiting

    def serves(self, index: int) -> bool:
        """Whether it is worth asking for this picture."""
        return bool(self._children) and not self._files[index].lower().endswith(reader.LEFT_TO_OTHERS)

    def ask(self, indices: Iterable[int]) -> None:
        """Let the processes begin with these, in order. None of them may have been asked for and not taken."""
        self._waiting.update(dict.fromkeys(indices))
        self._send()

    def take(self, indices: Iterable[int]) -> Iterator[Fetched | int]:
        """Those of `indices` that were asked for, as they come; the bare index of one that is refused.

        A picture lies in shared memory: who takes it queues a copy of it on the current stream before taking the next one.
        """
        wanted = {index for index in indices if index in self}
        try:
            while wanted:
                self._send()
                for index in [index for index in wanted if index in self._answers]:
                    wanted.discard(index)
                    yield self._answered(index)
                if wanted and not self._answers.keys() & wanted:
                    self._wait(wanted)
        finally:
            self._let_go()

    def stop(self) -> None:
        """End the processes, which hold nothing that could be lost; whoever waits for them goes on. Any thread may call it."""
        self._is_ending = True
        for child in list(self._children):
            child.process.kill()

    def close(self, within_s: float) -> int:
        """End the processes and give the memory back. Calling it again does nothing.

        Returns:
            How many processes had not ended after that time, since a file system does not answer them.
        """
        self.stop()
        until_s = time.monotonic() + within_s
        left = 0
        for child in self._children:
            try:
                child.process.wait(max(until_s - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                left += 1
            child.close()
        self._children.clear()
        self._selector.close()
        self._slots.close()
        return left

    def _after_fork(self) -> None:
        """In a process that was forked off this one: the readers must not live as long as that."""
        for child in self._children:
            child.close()

    def _wait(self, wanted: set[int]) -> None:
        """Until something may go on."""
        if any(child.asked for child in self._children):
            self._receive()
            return
        self._let_go()
        if self._children and (len(self._slots) or self._slots.reclaim(wait=True)):
            return
        # No process is left, or other pictures that nobody takes have all slots.
        for index in wanted.intersection(self._waiting):
            del self._waiting[index]
            self._answers[index] = reader.REFUSED

    def _answered(self, index: int) -> Fetched | int:
        height, width, *original = self._answers.pop(index)
        slot = self._slot_of.pop(index, None)
        if slot is not None:
            self._taken.append(slot)
        if not height or slot is None:
            return index
        return Fetched(index, image=self._slots.picture(slot, height, width), original=(original[0], original[1]))

    def _let_go(self) -> None:
        """The pictures that were given to the caller are being copied: once that is done, others may have their slots."""
        slots, self._taken = self._taken, []
        self._slots.give_back(slots)

    def _send(self) -> None:
        """Hand out what waits, as far as there are slots, to whoever has least to do. It never waits for a process to read."""
        self._slots.reclaim(wait=False)
        while self._waiting and len(self._slots) and self._children:
            child = min(self._children, key=lambda child: len(child.asked))
            indices = list(islice(self._waiting, min(AT_ONCE, len(self._slots))))
            paths = [self._files[index] for index in indices]
            sizes = [reader.REQUEST.size + len(os.fsencode(path)) for path in paths]
            if not child.has_room_for(sum(sizes)):
                return
            slots = [self._slots.take() for _ in indices]
            for index, slot, size in zip(indices, slots, sizes, strict=True):
                del self._waiting[index]
                self._slot_of[index] = slot
                child.asked[index] = size
            try:
                _write(child.requests, reader.packed(list(zip(indices, slots, paths, strict=True))))
            except BrokenPipeError:
                self._lose(child)

    def _receive(self) -> None:
        """Wait until a process answers, and note all that is there."""
        for key, _ in self._selector.select():
            child: Child = key.data
            data = os.read(child.answers, 2**16)
            if not data:
                self._lose(child)
                continue
            data = child.unread + data
            whole = len(data) // reader.ANSWER.size * reader.ANSWER.size
            child.unread = data[whole:]
            for index, _, *sizes in reader.ANSWER.iter_unpack(data[:whole]):
                del child.asked[index]
                self._answers[index] = tuple(sizes)

    def _lose(self, child: Child) -> None:
        """A process ended: what it was asked for is refused, and the others go on."""
        self._children.remove(child)
        self._selector.unregister(child.answers)
        child.close()
        code = child.process.wait()
        if not self._is_ending:
            left = f"{len(self._children)} others go on" if self._children else "threads read from now on"
            warn(f"loader: a reading process ended (exit code {code}); {left}")
        for index in child.asked:
            self._answers[index] = reader.REFUSED


def _start(slots: Slots, imgsz: int) -> Child:
    numbers = [str(number) for number in (slots.descriptor, slots.slot_bytes, imgsz)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START, SOURCES, *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[slots.descriptor],
        # One thread each: a numerical library would start as many as there are cores.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    requests, answers = (_taken_over(pipe) for pipe in (process.stdin, process.stdout))
    # Half of it, for a pipe holds pages, which writes may leave partly empty.
    return Child(process, requests, answers, fcntl.fcntl(requests, fcntl.F_GETPIPE_SZ) // 2)


def _taken_over(pipe: Any) -> int:
    """The descriptor of one of Popen's pipes, which is no longer closed with it."""
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:  # a signal may interrupt it
        left = left[os.write(descriptor, left) :]


def _forget_pools() -> None:
    for pool in list(_pools):
        pool._after_fork()


os.register_at_fork(after_in_child=_forget_pools)
