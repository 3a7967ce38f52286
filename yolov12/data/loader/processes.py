# SPDX-License-Identifier: AGPL-3.0-or-later
"""Processes that read pictures into memory which this one shares with them: Python's lock, for which threads would compete with the training loop,
is not asked for while they decode, and a picture costs this process a few microseconds instead of a few hundred.

The memory is an anonymous file (memfd_create), since /dev/shm has 64 MB in a container. It is cut into places; a picture has one from the moment it
is asked for until it was copied away. What a process does not read plainly, and what one that ended had been asked for, is refused: reading it the
other way is the caller's.
"""

from __future__ import annotations

import mmap
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from yolov12.data import reader
from yolov12.data.loader.fetch import Fetched
from yolov12.log import warn

AT_ONCE = 4
"""Pictures of one request: few enough that a batch is spread evenly, and that one answer does not wait for many files."""
REFUSED = (0, 0, 0, 0)
SOURCES = Path(__file__).resolve().parents[3]
"""Where a process finds this package, which may be a checkout that is not installed."""


@dataclass(eq=False)
class Child:
    """One reading process."""

    process: subprocess.Popen[bytes]
    asked: set[int] = field(default_factory=set)
    """Indices of the pictures that it has not answered."""
    unread: bytes = b""
    """The beginning of an answer."""


class Processes:
    """Reads pictures side by side. Only one thread may call its methods.

    Args:
        files: paths of the pictures, by index.
        imgsz: length of their long side in pixels.
        count: of processes.
        places: of pictures that are asked for and not yet copied away.
        device: where the pictures go.

    Raises:
        OSError: the memory can not be had, or no process be started.
    """

    def __init__(self, files: Sequence[str], imgsz: int, count: int, places: int, device: torch.device) -> None:
        self._files, self._device = files, device
        self._place_bytes = 3 * imgsz**2
        self._free = deque(range(places))
        self._waiting: dict[int, None] = {}
        """Asked for, in order, and not handed to a process yet."""
        self._place_of: dict[int, int] = {}
        """Of all that was handed to one, until it is taken."""
        self._answers: dict[int, tuple[int, int, int, int]] = {}
        """Of those that were not taken yet; zeros for a refused one."""
        self._taken: list[int] = []
        """Places whose pictures were given to the caller."""
        self._leaving: deque[tuple[torch.cuda.Event, list[int]]] = deque()
        """Places whose pictures are being copied away."""
        descriptor = os.memfd_create("yolov12-pictures")
        try:
            os.ftruncate(descriptor, places * self._place_bytes)
            self._memory = mmap.mmap(descriptor, 0)
            self._block = torch.frombuffer(self._memory, dtype=torch.uint8).view(places, self._place_bytes)
            self._is_pinned = device.type == "cuda" and _pin(self._block)
            self._selector = selectors.DefaultSelector()
            self._children = [Child(_start(descriptor, self._place_bytes, imgsz)) for _ in range(count)]
        finally:
            os.close(descriptor)
        for child in self._children:
            assert child.process.stdout is not None
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def __contains__(self, index: int) -> bool:
        """Whether it was asked for and not taken."""
        return index in self._place_of or index in self._answers or index in self._waiting

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

    def close(self, within_s: float) -> int:
        """End the processes; how many did not end within that time, and were killed. Calling it again does nothing."""
        for child in self._children:
            _close(child.process.stdin)
            _close(child.process.stdout)
        killed = 0
        for child in self._children:
            try:
                child.process.wait(within_s)
            except subprocess.TimeoutExpired:
                child.process.kill()
                killed += 1
        self._children.clear()
        self._selector.close()
        while self._reclaimed(wait=True):
            pass
        if self._is_pinned:
            torch.cuda.cudart().cudaHostUnregister(self._block.data_ptr())
            self._is_pinned = False
        return killed

    def _wait(self, wanted: set[int]) -> None:
        """Until something may go on."""
        if any(child.asked for child in self._children):
            self._receive()
            return
        self._let_go()
        if self._children and (self._free or self._reclaimed(wait=True)):
            return
        # No process is left, or other pictures that nobody takes have all places.
        for index in wanted.intersection(self._waiting):
            del self._waiting[index]
            self._answers[index] = REFUSED

    def _answered(self, index: int) -> Fetched | int:
        height, width, *original = self._answers.pop(index)
        place = self._place_of.pop(index, None)
        if place is not None:
            self._taken.append(place)
        if not height:
            return index
        image = self._block[place, : 3 * height * width].view(height, width, 3)
        return Fetched(index, image=image, original=(original[0], original[1]))

    def _let_go(self) -> None:
        """The pictures that were given to the caller are being copied: once that is done, others may have their places."""
        places, self._taken = self._taken, []
        if self._device.type != "cuda":
            self._free.extend(places)
        elif places:
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self._device))
            self._leaving.append((done, places))

    def _send(self) -> None:
        """Hand out what waits, as far as there are places, to whoever has least to do."""
        self._reclaimed(wait=False)
        while self._waiting and self._free and self._children:
            child = min(self._children, key=lambda child: len(child.asked))
            indices = list(islice(self._waiting, min(AT_ONCE, len(self._free))))
            for index in indices:
                del self._waiting[index]
                self._place_of[index] = self._free.popleft()
            child.asked.update(indices)
            assert child.process.stdin is not None
            try:
                child.process.stdin.write(
                    reader.packed([(index, self._place_of[index], self._files[index]) for index in indices])
                )
                child.process.stdin.flush()
            except BrokenPipeError:
                self._lose(child)

    def _receive(self) -> None:
        """Wait until a process answers, and note all that is there."""
        for key, _ in self._selector.select():
            child: Child = key.data
            data = os.read(key.fd, 2**16)
            if not data:
                self._lose(child)
                continue
            data = child.unread + data
            whole = len(data) // reader.ANSWER.size * reader.ANSWER.size
            child.unread = data[whole:]
            for index, _, *sizes in reader.ANSWER.iter_unpack(data[:whole]):
                child.asked.discard(index)
                self._answers[index] = tuple(sizes)

    def _lose(self, child: Child) -> None:
        """A process ended by itself: what it was asked for is refused, and the others go on."""
        self._children.remove(child)
        assert child.process.stdout is not None
        self._selector.unregister(child.process.stdout)
        _close(child.process.stdin)
        _close(child.process.stdout)
        code = child.process.wait()
        left = f"{len(self._children)} others go on" if self._children else "threads read from now on"
        warn(f"loader: a reading process ended (exit code {code}); {left}")
        for index in child.asked:
            self._answers[index] = REFUSED

    def _reclaimed(self, wait: bool) -> bool:
        """Take back the places whose copies are made; whether there were any. `wait`: for those that were queued first."""
        found = False
        while self._leaving and (wait or self._leaving[0][0].query()):
            done, places = self._leaving.popleft()
            done.synchronize()
            self._free.extend(places)
            found, wait = True, False
        return found


def _start(descriptor: int, place_bytes: int, imgsz: int) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", reader.__name__, str(descriptor), str(place_bytes), str(imgsz)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
        env=os.environ | {"PYTHONPATH": path},
    )


def _pin(block: Tensor) -> bool:
    """Whether the GPU can copy from this memory while the host goes on."""
    failure = int(torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.numel(), 0))
    if failure:
        warn(f"loader: the memory of the reading processes can not be pinned (CUDA error {failure}): copies wait")
    return not failure


def _close(pipe: IO[bytes] | None) -> None:
    with suppress(BrokenPipeError):  # it had something to write to a process that is gone
        if pipe is not None:
            pipe.close()
