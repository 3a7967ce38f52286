# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which GPUs of this machine a run takes: what is there, what `device=auto` means, and what is wrong with GPUs that were named.

Importing this is quick; asking for the GPUs imports torch, and only where an NVIDIA driver is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolov12.errors import UserError

IDLE_BYTES = 2**30
"""The driver itself and a screen take some hundred MiB."""
IDLE_SHARE = 0.02
IDLE_BUSY_PERCENT = 10
FULL_SHARE = 0.05
"""Of its memory: with less free, nothing can be trained on a GPU."""

DRIVER = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"), Path("/dev/dxg"))
"""One of these is there where an NVIDIA driver is; the last one under WSL."""
PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Gpu:
    """A visible GPU."""

    index: int
    """As torch counts."""
    name: str
    free_bytes: int
    total_bytes: int
    busy_percent: int | None = None
    """How much of the last moment something ran on it; None where nobody tells."""
    numa_node: int | None = None
    """The part of the machine's memory that it is next to; None where there are no parts."""
    cpus: str = ""
    """The cores next to it, as the kernel writes them: "0-15,32-47"."""
    nvlinks: frozenset[int] = field(default=frozenset())
    """Indices of the GPUs that it reaches without PCIe."""

    @property
    def is_idle(self) -> bool:
        used_bytes = self.total_bytes - self.free_bytes
        return (
            used_bytes <= max(IDLE_BYTES, IDLE_SHARE * self.total_bytes)
            and (self.busy_percent or 0) < IDLE_BUSY_PERCENT
        )

    @property
    def memory(self) -> str:
        """ "71.2 of 79.6 GiB free"."""
        return f"{self.free_bytes / 2**30:.1f} of {self.total_bytes / 2**30:.1f} GiB free"


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA shows to this process, in its order; none, and no torch imported, without a driver."""
    if not any(place.exists() for place in DRIVER):
        return []
    from yolov12.distributed.gpus import seen_by_torch

    return seen_by_torch()


def auto(gpus: Sequence[Gpu], local_size: int = 0) -> tuple[str, str]:
    """The `device` argument to use for `device=auto`, and the reason.

    The idle GPUs of the most common kind (of the larger memory where two kinds tie) are taken: an update waits for the slowest GPU. Where none is
    idle, all count as such: a screen or a notebook that holds memory should not keep a run from starting.

    Args:
        gpus: what is visible.
        local_size: how many ranks the launcher has started, or wants, on this machine: one GPU each in order; 0 where it leaves that to us.
    """
    if not gpus:
        return "cpu", "no GPU is visible"
    if local_size:
        ranks = f"{local_size} rank{'s' if local_size > 1 else ''}"
        return ",".join(str(gpu.index) for gpu in gpus[:local_size]), f"one for each of the launcher's {ranks} here"
    idle = [gpu for gpu in gpus if gpu.is_idle] or list(gpus)
    kinds = {gpu.name for gpu in idle}
    kind = max(
        kinds,
        key=lambda name: (sum(g.name == name for g in idle), max(g.total_bytes for g in idle if g.name == name), name),
    )
    chosen = [gpu for gpu in idle if gpu.name == kind]
    free_gib = min(gpu.free_bytes for gpu in chosen) / 2**30
    words = [f"{len(chosen)} x {kind}, at least {free_gib:.1f} GiB free each"]
    if len(idle) > len(chosen):
        words.append(f"leaving out {len(idle) - len(chosen)} of another kind")
    if len(gpus) > len(idle):
        words.append(f"leaving out {len(gpus) - len(idle)} in use")
    elif not any(gpu.is_idle for gpu in gpus):
        words.append("all of them in use by others")
    return ",".join(str(gpu.index) for gpu in chosen), ", ".join(words)


def lines(gpus: Sequence[Gpu], chosen: str) -> Iterator[str]:
    """One line for each GPU: what it is, how free, how connected, and whether `chosen`, a `device` argument, has it."""
    taken = chosen.split(",")
    for gpu in gpus:
        facts = [gpu.name, gpu.memory]
        if gpu.busy_percent is not None:
            facts.append(f"{gpu.busy_percent} % busy")
        if len(gpus) > 1:
            facts.append(_links(gpu, gpus))
        if gpu.numa_node is not None:
            facts.append(f"NUMA node {gpu.numa_node}")
        why_not = "left out" if gpu.is_idle else "left out, in use"
        yield f"GPU {gpu.index}: {', '.join(facts)}: {'taken' if str(gpu.index) in taken else why_not}"


def requested_gpus(device: Any) -> list[int]:
    """The CUDA indices that a `device` argument names; none for "cpu", "auto", -1, nothing, and other kinds of device."""
    text = re.sub(r"cuda:|[()\[\]'\" ]", "", str(device).lower())
    return [0] if text == "cuda" else [int(part) for part in text.split(",") if re.fullmatch(r"\d+", part)]


def is_in_use_here() -> bool:
    """Whether this process has used a GPU. From then on what the driver tells of one is also what we do there."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def check_named(named: Sequence[int], gpus: Sequence[Gpu], may_mix: bool = False, is_ours: bool = False) -> list[str]:
    """What to warn of before a run on the GPUs that the user named.

    Args:
        may_mix: whether GPUs of several kinds are only warned of: a run on them is right, if slow.
        is_ours: whether this process uses GPUs already; how free they are is then not looked at.

    Raises:
        UserError: there is no room on one of them, and which GPUs have room; or they are of several kinds.
    """
    shown = ",".join(map(str, named))
    chosen = [gpu for gpu in gpus if gpu.index in named]
    full = [gpu for gpu in chosen if gpu.free_bytes < FULL_SHARE * gpu.total_bytes and not is_ours]
    if full:
        others = [str(gpu.index) for gpu in gpus if gpu.is_idle]
        advice = f"GPU {', '.join(others)} is idle" if others else "no GPU here is idle"
        raise UserError(f"device={shown}: GPU {full[0].index} has {full[0].memory}, another program uses it; {advice}")
    warnings = [
        f"device: GPU {gpu.index} is in use by another program ({gpu.memory}"
        + (f", {gpu.busy_percent} % busy)" if gpu.busy_percent is not None else ")")
        for gpu in chosen
        if not gpu.is_idle and not is_ours
    ]
    kinds = sorted({gpu.name for gpu in chosen})
    if len(kinds) > 1 and not may_mix:
        raise UserError(
            f"device={shown}: GPUs of several kinds ({', '.join(kinds)}), of which every update would wait for the slowest: name those of one kind, "
            "as device=auto does, or add mixed_gpus=1"
        )
    if len(kinds) > 1:
        warnings.append(f"device: GPUs of several kinds ({', '.join(kinds)}): every update waits for the slowest")
    return warnings


def beside(pci: str, root: Path = PCI) -> tuple[int | None, str]:
    """(NUMA node, cores next to it) of a device by its PCI address, such as "0000:3b:00.0"; (None, "") where the kernel does not say."""
    folder = root / pci.lower()
    try:
        node = int((folder / "numa_node").read_text())
        cpus = (folder / "local_cpulist").read_text().strip()
    except (OSError, ValueError):
        return None, ""
    return (node if node >= 0 else None), cpus  # -1: a machine of one part


def _links(gpu: Gpu, gpus: Sequence[Gpu]) -> str:
    others = [other.index for other in gpus if other.index != gpu.index]
    linked = [str(index) for index in others if index in gpu.nvlinks]
    if len(linked) == len(others):
        return "NVLink to all"
    return f"NVLink to {', '.join(linked)}" if linked else "PCIe"
