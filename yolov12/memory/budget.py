# SPDX-License-Identifier: AGPL-3.0-or-later
"""How much memory a step may use: what the device has free, not what the allocator thinks."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Memory:
    """A device as this process sees it now, in bytes."""

    device_free: int
    """Free on the device, other processes' memory taken off."""
    reserved: int
    """Held by this process's allocator."""
    allocated: int
    """Of that, in use."""
    cap: int
    """What this process may hold (torch.cuda.set_per_process_memory_fraction)."""

    def budget(self, safety_ratio: float) -> int:
        """What may be in use at once: what is in use now and (1 - safety_ratio) of what is free."""
        free = min(self.device_free + self.reserved - self.allocated, self.cap - self.allocated)
        return self.allocated + int((1 - safety_ratio) * max(free, 0))


def read(device: torch.device) -> Memory:
    """Ask the driver and the allocator; nothing waits for the GPU."""
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    fraction = torch.cuda.get_per_process_memory_fraction(index)
    return Memory(free, torch.cuda.memory_reserved(index), torch.cuda.memory_allocated(index), int(fraction * total))
