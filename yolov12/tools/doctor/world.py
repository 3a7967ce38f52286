# SPDX-License-Identifier: AGPL-3.0-or-later
"""All that the checks look at, as one value: `look.py` makes the real one, tests make their own.

What costs nothing to find out is there as data; what takes time or a GPU is a function, called by the one check that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov12.tools.verify import Here


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, and what this environment asks of it."""

    version: str = ""
    """As the kernel module or NVML has it, "580.65.06"; empty where there is none."""
    cuda: tuple[int, int] | None = None
    """The newest CUDA that it runs; None where NVML does not answer."""
    is_reachable: bool = False
    """Whether its devices can be opened here. In a container without `--gpus` they are not there."""
    least: int | None = None
    """The oldest driver that the image's CUDA runs on; None outside an image."""
    older: tuple[tuple[int, str], ...] = ()
    """(driver, CUDA line) of images for older drivers."""
    gpus: int | None = None
    """How many it has; None where NVML does not answer."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees."""

    index: int
    name: str
    capability: tuple[int, int]
    pci: str
    cpus: str = ""
    """The cores next to it, as the kernel writes them."""

    @property
    def arch(self) -> str:
        """ "90" for (9, 0)."""
        return "{}{}".format(*self.capability)

    @property
    def subject(self) -> str:
        return f"GPU {self.index}"


@dataclass(frozen=True)
class Limits:
    """What the kernel allows this process. None: no limit."""

    open_files: int | None
    open_files_most: int | None
    """What this process may raise it to."""
    locked_bytes: int | None
    processes: int | None
    """Of the whole container (pids.max)."""
    processes_unread: str = ""
    """Why that is not known; empty if it is."""
    user_processes: int | None = None
    """Of this user (ulimit -u), counted over the whole machine; root is bound by none."""


@dataclass(frozen=True)
class Cpus:
    """Where this process may run."""

    allowed: frozenset[int]
    total: int
    quota: float | None = None
    """Cores' worth of time that the container gets; None: no limit."""
    quota_unread: str = ""
    """Why that is not known; empty if it is."""


@dataclass(frozen=True)
class Trial:
    """A short run of the attention kernel that training would get."""

    backend: str
    reason: str
    dtype: str
    difference: float
    """Largest difference from upstream's arithmetic in float32, output and gradients, as a share of the largest value."""
    allowed: float
    """Twice the difference of upstream's own arithmetic in this number format, which is how FlashAttention's authors judge theirs."""
    duration_ms: float
    plain_ms: float
    """Upstream's arithmetic on the same tensors."""


@dataclass(frozen=True)
class LoaderTrial:
    """A short run of what feeds training."""

    pictures_per_s: float
    threads: int
    decoder: str
    """Which JPEG decoder, and why."""
    worker_failure: str = ""
    """Why loader processes did not bring a batch; empty if they did."""
    first_failure: str = ""
    """The same of the first try, where the second went well."""


@dataclass(frozen=True)
class Speed:
    """Of a disk."""

    mb_per_s: float
    what: str
    """What was written or read."""
    is_enough: bool = True
    """Whether that was enough to judge by."""
    pictures_per_s: float = 0.0
    """Where pictures were read."""


@dataclass(frozen=True)
class World:
    """What is seen here."""

    environ: Mapping[str, str]
    is_image: bool
    deep: bool
    """Whether checks may take minutes."""
    driver: Driver
    torch_failure: str
    """Why torch can not be imported; empty if it can."""
    torch_cuda: str | None
    """The CUDA that torch was built for; None for a torch without."""
    gpus: tuple[Gpu, ...]
    gpu_failures: Mapping[int, str]
    """By index, what torch said of each GPU that it counts and can not ask; such a GPU is not among `gpus`."""
    installed: Here
    shm_free_bytes: int | None
    """What /dev/shm has left; None where there is none."""
    limits: Limits
    has_infiniband: bool
    cpus: Cpus
    data: Path | None
    """Where the data set lies, if one was named."""
    data_is_listed: bool
    """Whether files list its pictures, which may lie elsewhere."""
    runs: Path
    runs_reason: str
    workspace_owner: int | None
    """User id; None where there is no workspace."""
    user: int
    cache: Path
    cache_reason: str
    engines: Path
    font: Path
    logger_settings: Mapping[str, Any]
    """Ultralytics' settings file."""
    attention: Callable[[Gpu], Trial]
    """MemoryError: the GPU is full; RuntimeError: the kernel does not run."""
    describe_cpu_attention: Callable[[], tuple[str, str]]
    slowdowns: Callable[[Gpu], int]
    """NVML's bits of why the clocks are what they are. OSError: it does not say; LostGpuError: the GPU is gone."""
    all_reduce: Callable[[], str]
    """The verdict of `yolov12 nccl-test`. OSError: it gave none."""
    write_speed: Callable[[Path], Speed]
    read_speed: Callable[[Path], Speed | None]
    """None where there is nothing to read."""
    free_bytes: Callable[[Path], int]
    loader: Callable[[], LoaderTrial]
    runs_code_from_weights: Callable[[], bool]
    """Whether a checkpoint that was made to run code did so."""
