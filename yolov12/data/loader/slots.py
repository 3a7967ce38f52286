# SPDX-License-Identifier: AGPL-3.0-or-later
"""Memory that this process shares with its readers: slots for one picture each, pinned where the pictures go to a GPU.

It is an anonymous file (memfd_create), since /dev/shm has 64 MB in a container. A slot is given away anew once the copy out of it was made.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor


class Slots:
    """Slots of `slot_bytes` each. Not for several threads.

    Args:
        count: of slots.
        slot_bytes: of one.
        device: where their content is copied to.

    Raises:
        OSError: the memory can not be had.
    """

    def __init__(self, count: int, slot_bytes: int, device: torch.device) -> None:
        self.slot_bytes, self._device = slot_bytes, device
        self.descriptor = os.memfd_create("yolov12-pictures")
        try:
            os.ftruncate(self.descriptor, count * slot_bytes)
            self._block: Tensor | None = torch.frombuffer(mmap.mmap(self.descriptor, 0), dtype=torch.uint8)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._is_pinned = False
        self._free = deque(range(count))
        self._leaving: deque[tuple[torch.cuda.Event, Sequence[int]]] = deque()
        """Slots out of which copies are being made."""

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)

    def pin(self) -> None:
        """Let a GPU copy out of them while the host goes on.

        Raises:
            OSError: the driver refuses.
        """
        if self._device.type != "cuda" or self._block is None:
            return
        failure = int(torch.cuda.cudart().cudaHostRegister(self._block.data_ptr(), self._block.numel(), 0))
        self._is_pinned = not failure
        if failure:
            with suppress(RuntimeError):  # CUDA keeps the error, and the next launch would be blamed for it
                torch.zeros(1, device=self._device)
            raise OSError(f"CUDA error {failure} in pinning {self._block.numel() / 2**30:.2f} GiB")

    def take(self) -> int:
        """A free one."""
        return self._free.popleft()

    def picture(self, slot: int, height: int, width: int) -> Tensor:
        """What lies in a slot as (height, width, 3) uint8, without a copy."""
        assert self._block is not None
        first = slot * self.slot_bytes
        return self._block[first : first + 3 * height * width].view(height, width, 3)

    def give_back(self, slots: Sequence[int]) -> None:
        """The copies out of these are queued on the current stream, or made where the device is the CPU."""
        if self._device.type != "cuda":
            self._free.extend(slots)
        elif slots:
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self._device))
            self._leaving.append((copied, slots))

    def reclaim(self, wait: bool) -> bool:
        """Make slots free whose copies are made; whether there were any.

        Args:
            wait: for those that were given back first.
        """
        found = False
        while self._leaving and (wait or self._leaving[0][0].query()):
            copied, slots = self._leaving.popleft()
            copied.synchronize()
            self._free.extend(slots)
            found, wait = True, False
        return found

    def close(self) -> None:
        """Give the memory back, once the copies out of it are made. Again does nothing."""
        if self._block is None:
            return
        block, self._block = self._block, None
        try:
            while self.reclaim(wait=True):
                pass
        finally:
            if self._is_pinned:
                torch.cuda.cudart().cudaHostUnregister(block.data_ptr())
            os.close(self.descriptor)
