# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a training would start, without starting it: the command, the processes and their GPUs, each one's share of the batch, the environment.

Imports neither torch nor ultralytics, so that it answers at once; where there are GPUs, devices.py has asked torch for them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yolov12 import settings
from yolov12.declare import PREFIX, as_argument, as_text
from yolov12.distributed import binding, devices, ranks
from yolov12.distributed.devices import Gpu
from yolov12.distributed.launchers import Machines, World
from yolov12.errors import UserError
from yolov12.log import program

BATCH, NBS = 16, 64
"""ultralytics' defaults (cfg/default.yaml)."""
SHOWN = ("CUDA_", "NCCL_", "TORCH_", "OMP_", "GLOO_", "MASTER_", "YOLO_")
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "NNODES", "GPUS_PER_NODE")


def show(options: Mapping[str, Any], found: World | Machines) -> int:
    """Print the plan for this machine; the exit code."""
    print("\n".join(lines(options, found, devices.visible_gpus())))
    return 0


def lines(options: Mapping[str, Any], found: World | Machines, gpus: Sequence[Gpu]) -> Iterator[str]:
    """The plan.

    Args:
        options: of `yolov12 train`, or arguments of `YOLO.train`, as they were given.
        found: what the launcher said.
        gpus: of this machine.

    Raises:
        UserError: the batch leaves a process without an image; the launcher and the device argument say different numbers.
    """
    device, reason = _device(options.get("device"), found, gpus)
    ids = [] if device in ("cpu", "mps") else [int(index) for index in device.split(",")]
    yield "dry run: nothing is started"
    yield f"command: {program()} train {shlex.join(f'{key}={as_argument(value)}' for key, value in {**options, 'device': device}.items())}"
    yield from (f"device: {line}" for line in devices.lines(gpus, device))
    yield f"device: {device} ({reason})"
    here, size, first = _ranks(found, device)
    yield from _world(found, here, size)
    batch, words = _batch(options, size)
    yield from _processes(found, here, first, ids, gpus, [_share(batch, rank, size) for rank in range(size)])
    yield words
    if batch >= 1:
        nbs = options.get("nbs") or NBS
        every = max(round(nbs / batch), 1)  # engine/trainer.py, _build_train_pipeline
        after = "every batch" if every == 1 else f"every {every} batches"
        yield f"accumulation: nbs={nbs}: an update after {after}, of {every * int(batch)} images"
    yield from _environment(found, here, size)


def _device(asked: Any, found: World | Machines, gpus: Sequence[Gpu]) -> tuple[str, str]:
    """The `device` argument as it would be resolved, and why."""
    is_launched = isinstance(found, Machines) or found.is_launched
    if asked == "auto" or (is_launched and asked in (None, "")):
        return devices.auto(gpus, found.local_size if is_launched else 0)
    if asked in (None, ""):
        return ("0", "the first GPU") if gpus else ("cpu", "no GPU is visible")
    named = devices.requested_gpus(asked)
    return (",".join(map(str, named)) if named else as_text(asked)), "as given"


def _ranks(found: World | Machines, device: str) -> tuple[int, int, int]:
    """(processes of this machine, of all machines, the first rank of this machine)."""
    world, machines = (World(), found) if isinstance(found, Machines) else (found, None)
    here = ranks.of_this_machine(world, machines, device)
    first = world.rank - world.local_rank if machines is None else here * machines.node
    return here, ranks.of_all_machines(world, machines, device), first


def _world(found: World | Machines, here: int, size: int) -> Iterator[str]:
    if isinstance(found, Machines):
        yield f"launcher: {found.launcher}: {found.reason}; each machine starts its own processes"
        if found.count > 1:
            yield (
                f"world: {size} processes on {found.count} machines (if each has {here}, as this one), which meet at {found.address}:{found.port}"
            )
            return
    elif found.is_launched:
        yield f"launcher: {found.launcher} has started this process as rank {found.rank}"
        yield f"world: {size} processes, {here} on this machine; the first is at {found.address or '?'}:{found.port or '?'}"
        return
    else:
        yield "launcher: none; this process starts the others" if size > 1 else "launcher: none"
    yield f"world: {size} process{'es' if size > 1 else ''} on this machine"


def _batch(options: Mapping[str, Any], size: int) -> tuple[float, str]:
    """(the batch over all, a line about it)."""
    batch = options.get("batch")
    batch = BATCH if batch is None else batch
    if batch < 1:
        return batch, f"batch: {batch:g}: measured when training starts, the same on each process"
    if batch < size:
        raise UserError(f"batch={batch:g} is over all processes, and there are {size}: type batch={size} or more")
    if size == 1:
        return batch, f"batch: {batch:g}"
    each, more = divmod(int(batch), size)
    shares = f"{each} on each"
    if more:
        shares = f"{each + 1} on the first{f' {more}' if more > 1 else ''} and {each} on the others"
    return batch, f"batch: {batch:g} over {size} processes, {shares}"


def _share(batch: float, rank: int, size: int) -> str:
    """A process' part of a whole batch, as data/order.py cuts it: nothing is left out where the batch does not divide."""
    if batch < 1:
        return "its share"
    each, more = divmod(int(batch), size)
    return f"{each + (rank < more)} images of each batch"


def _processes(
    found: World | Machines, here: int, first: int, ids: Sequence[int], gpus: Sequence[Gpu], shares: Sequence[str]
) -> Iterator[str]:
    known = {gpu.index: gpu for gpu in gpus}
    cpulists = {index: known[index].cpus for index in ids[:here] if index in known}
    for local in range(here):
        where = "the CPU"
        if ids:
            if local >= len(ids):
                raise UserError(
                    f"device={','.join(map(str, ids))} names {len(ids)} GPUs for {here} processes: leave device out"
                )
            index = ids[local]
            where = f"GPU {index}"
            if index in known:
                where += f" ({known[index].name})"
            if len(cpulists) > 1:
                where += f", {binding.choose(index, cpulists, os.sched_getaffinity(0), os.cpu_count() or 1)[1]}"
        yield f"rank {first + local}: {where}, {shares[first + local]}"


def _environment(found: World | Machines, here: int, size: int) -> Iterator[str]:
    environ = dict(os.environ)
    if size > 1 and not (isinstance(found, World) and found.is_launched):
        environ[binding.THREADS_VARIABLE] = binding.threads_each(here)
    for name in sorted(environ):
        if name in NAMES or name.startswith(SHOWN):
            yield f"environment: {name}={environ[name]}"
    for name, declaration in settings.DECLARED.items():
        if (where := settings.origin(name)) != "default":
            yield f"environment: {PREFIX}{name.upper()}={os.environ[declaration.env]} ({where})"
