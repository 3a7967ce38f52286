# SPDX-License-Identifier: AGPL-3.0-or-later
"""Another process on the same GPU that takes memory and keeps it: `python -m yolov12.tools.neighbour INDEX`.

It reads numbers of bytes, one a line; for each it takes so much of the card that this is left free, and answers with what it holds in all.
It ends when its input does, so it never outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys

import torch

from yolov12.errors import RetryableError
from yolov12.memory import budget
from yolov12.memory.budget import Memory
from yolov12.memory.peaks import OfCuda


class Neighbour:
    """The process, seen from the one that starts it.

    Raises:
        RetryableError: it ended, for example because somebody else took the memory first.
    """

    def __init__(self, device: torch.device) -> None:
        command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(device.index or 0)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask("")  # until its CUDA is there, which takes memory too

    def leave_free(self, size: int) -> int:
        """Take all but `size` bytes of what is free on the card; returns what it holds now. Never gives back."""
        return int(self._ask(str(size)))

    def end(self) -> None:
        """Give the card back."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is said below
            print(line, file=self._process.stdin, flush=True)
        if not (answer := self._process.stdout.readline().strip()):
            raise RetryableError("the neighbour process ended; its reason stands above")
        return answer


class CardBesideNeighbour:
    """A GPU of which a neighbour leaves `total` bytes, and then takes half of those.

    Args:
        device: a GPU.
        total: bytes that the run finds free at its beginning; None leaves the card as it is, without a neighbour.
        neighbour_at: in which use the neighbour takes its half, after the run has looked at the free memory.
    """

    def __init__(self, device: torch.device, total: int | None = None, neighbour_at: int | None = None) -> None:
        self.device, self.total, self.neighbour_at = device, total, neighbour_at
        self.uses = self.needed = self.taken = 0
        self._allocator = OfCuda(device)
        self._neighbour: Neighbour | None = None
        if total is not None:
            self._neighbour = Neighbour(device)
            gc.collect()
            torch.cuda.empty_cache()
            self.held_at_first = self._neighbour.leave_free(total)

    def read(self, device: torch.device) -> Memory:
        return budget.read(device)

    def use(self, size: int) -> None:
        """The neighbour comes here, so whatever then fails fails for real."""
        if self.uses == self.neighbour_at and self._neighbour is not None and self.total is not None:
            torch.cuda.empty_cache()  # or this process's cache would keep the neighbour out; waits for the GPU, once
            free, _ = torch.cuda.mem_get_info(self.device)
            self.taken = self._neighbour.leave_free(max(free - self.total // 2, 0)) - self.held_at_first
        self.uses += 1
        self.needed = max(self.needed, size)

    def peak(self) -> tuple[int, int]:
        return self._allocator.peak()

    def reset(self) -> None:
        self._allocator.reset()

    def close(self) -> None:
        """The neighbour goes."""
        if self._neighbour is not None:
            self._neighbour.end()


def main(index: int) -> None:
    """The process itself."""
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    held = [torch.zeros(1, device=device)]
    for line in sys.stdin:
        if line.strip():
            free, _ = torch.cuda.mem_get_info(device)
            if (size := free - int(line)) > 0:
                held.append(torch.empty(size, dtype=torch.uint8, device=device))
        print(sum(tensor.nbytes for tensor in held), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
