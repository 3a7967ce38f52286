# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many ranks a run has, by what its launcher said and what the device argument names: one rule for the trainer, its launcher and dry runs."""

from __future__ import annotations

from typing import Any

from yolov12.distributed.devices import requested_gpus
from yolov12.distributed.launchers import Machines, World
from yolov12.errors import UserError


def wanted_here(here: World, machines: Machines | None) -> int:
    """How many ranks the launcher has started, or wants, on this machine; 0 where it leaves that to us."""
    if machines is not None:
        return machines.local_size
    return here.local_size if here.is_launched else 0


def of_this_machine(here: World, machines: Machines | None, device: Any) -> int:
    """How many ranks this machine has: what its launcher started or wants, else one for each GPU that the `device` argument names, at least one.

    Raises:
        UserError: the launcher wants another number than are named.
    """
    wanted, gpus = wanted_here(here, machines), requested_gpus(device)
    if machines is not None and wanted and gpus and wanted != len(gpus):
        raise UserError(
            f"device={','.join(map(str, gpus))} names {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}, and {machines.launcher} asks for {wanted} "
            "processes on each machine: leave device out, or make the numbers equal"
        )
    return wanted or max(len(gpus), 1)


def of_all_machines(here: World, machines: Machines | None, device: Any) -> int:
    """`of_this_machine` of all machines together; the others are taken to have as many as this one.

    Raises:
        UserError: as `of_this_machine`.
    """
    if here.is_launched:
        return here.size
    return of_this_machine(here, machines, device) * (1 if machines is None else machines.count)
