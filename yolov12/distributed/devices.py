# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `device=auto` means on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gpu:
    """A visible GPU."""

    index: int
    name: str
    free_bytes: int
    total_bytes: int


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA shows to this process, with their free memory."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(index, torch.cuda.get_device_name(index), free, total))
    return found


def auto(gpus: list[Gpu], local_size: int = 1) -> tuple[str, str]:
    """The `device` argument to use for `device=auto`, and the reason.

    All GPUs of the most common kind (of the larger memory where two kinds tie) are taken: an update waits for the slowest GPU.

    Args:
        gpus: what is visible.
        local_size: ranks that a launcher has already started on this machine; with several, one GPU each in order.
    """
    if not gpus:
        return "cpu", "no GPU is visible"
    if local_size > 1:
        return ",".join(str(gpu.index) for gpu in gpus[:local_size]), f"the launcher started {local_size} ranks here"
    kinds = {gpu.name for gpu in gpus}
    kind = max(
        kinds,
        key=lambda name: (sum(g.name == name for g in gpus), max(g.total_bytes for g in gpus if g.name == name), name),
    )
    chosen = [gpu for gpu in gpus if gpu.name == kind]
    left_out = f", leaving out {len(gpus) - len(chosen)} of another kind" if len(kinds) > 1 else ""
    free_gib = min(gpu.free_bytes for gpu in chosen) / 2**30
    return (
        ",".join(str(gpu.index) for gpu in chosen),
        f"{len(chosen)} x {kind}, at least {free_gib:.1f} GiB free each{left_out}",
    )
