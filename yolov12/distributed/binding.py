# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cores of a machine: a rank, and the loader workers that it starts, stay on those next to its GPU; processes share them as threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Of OpenMP: threads that a process computes with on the CPU. Without it, as many as there are cores."""
THREADS = Path("/proc/self/task")


def choose(index: int, cpulists: Mapping[int, str], allowed: set[int], all_cpus: int) -> tuple[set[int], str]:
    """(the cores to stay on, empty for all that are allowed; the reason).

    Where all ranks of this machine have their GPUs beside the same cores nothing is bound: the other cores would be of no use to anyone.

    Args:
        index: of this rank's GPU.
        cpulists: GPU index -> the cores next to it, for the GPUs of all ranks of this machine.
        allowed: the cores that this process may use now.
        all_cpus: how many the machine has. With fewer allowed, somebody (Slurm, numactl, taskset) has chosen already.
    """
    if len(allowed) < all_cpus:
        return set(), f"on the {len(allowed)} of {all_cpus} cores that it was started on"
    if len(cpulists) < 2 or len(set(cpulists.values())) < 2:
        return set(), "not bound: all GPUs of this run are next to the same cores"
    near = parse(cpulists[index]) & allowed
    if not near:
        return set(), f"not bound: the kernel does not say what is next to GPU {index}"
    return near, f"on cores {cpulists[index]}, next to GPU {index}"


def threads_each(processes: int) -> str:
    """`OMP_NUM_THREADS` of each process, for `processes` started here: what the user or a launcher has set, else an equal share of the cores.

    torchrun starts them with 1 where it is not set, and says so in a banner.
    """
    return os.environ.get(THREADS_VARIABLE) or str(max(1, len(os.sched_getaffinity(0)) // processes))


def bind(cpus: set[int], threads: Path = THREADS) -> None:
    """Move all threads of this process to `cpus`. What it starts from now on begins there."""
    os.sched_setaffinity(0, cpus)
    for thread in threads.iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cpus)
        except ProcessLookupError:  # it has ended
            continue


def parse(cpulist: str) -> set[int]:
    """ "0-2,8" -> {0, 1, 2, 8}, as the kernel writes lists of cores (Documentation/admin-guide/cputopology.rst)."""
    cpus: set[int] = set()
    for part in filter(None, cpulist.strip().split(",")):
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus
