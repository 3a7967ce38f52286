# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checks of the machine around the GPUs: memory that processes share, limits, cores, disks, folders, the loader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from yolov12.distributed import binding
from yolov12.errors import ExitError
from yolov12.folders import check_writable
from yolov12.tools.doctor.result import Result, fail, ok, skipped, warn
from yolov12.tools.doctor.world import Speed, World

# What ultralytics asks for by default: workers, batches ahead of each, pictures of a batch, pixels.
WORKERS, AHEAD, BATCH, IMGSZ = 8, 2, 16, 640
LEAST_FILES = 4096
LEAST_PROCESSES = 1024
LEAST_FREE_BYTES, FEW_FREE_BYTES = 2**30, 10 * 2**30
"""A checkpoint of yolov12x with its optimizer is some 0.7 GB, and is written beside the one that it replaces."""
SLOW_WRITE_MB_PER_S = 50
"""Such a checkpoint takes a quarter of a minute then."""
SLOW_READ_MB_PER_S, FEW_PICTURES_PER_S = 100, 1000
"""A disk that is below both can not feed a fast GPU; small files are few bytes."""
CORES_PER_GPU = 4


def shm(world: World) -> Iterator[Result]:
    """Room for the batches that loader processes hand over."""
    if world.torch_failure:
        yield skipped("shm", "torch can not be imported")
        return
    from yolov12.data import handover

    wanted = handover.wanted_bytes(WORKERS, AHEAD, BATCH, 3 * IMGSZ**2, max(len(world.gpus), 1))
    way, sizes = handover.choose(wanted, world.shm_free_bytes)
    if way == "shared":
        yield ok("shm", sizes)
        return
    why = "batches go through pipes instead, with a few more copies of each; stock ultralytics can hang or die then"
    gib = -(-wanted * 2 // 2**30)
    yield warn(
        "shm",
        f"{sizes} ({WORKERS} workers, batch {BATCH}, {IMGSZ} px)",
        why,
        f"docker run --shm-size={gib}g   # or --ipc=host",
    )


def limits(world: World) -> Iterator[Result]:
    """Open files, processes, and memory that a network card may read by itself."""
    seen, found = world.limits, []
    if seen.open_files is not None and seen.open_files < LEAST_FILES:
        most = seen.open_files_most
        can = most is None or most >= LEAST_FILES
        to_type = f"ulimit -n {min(65536, most or 65536)}" if can else "docker run --ulimit nofile=65536:65536"
        why = "each loader process, picture and tensor on its way is an open file"
        found.append(warn("limits", f"{seen.open_files} open files", why, to_type))
    if seen.processes is not None and seen.processes < LEAST_PROCESSES:
        why = "each thread counts as one, and each loader process has several"
        found.append(warn("limits", f"{seen.processes} processes", why, "docker run --pids-limit=-1"))
    if seen.user_processes is not None and seen.user_processes < LEAST_PROCESSES:
        why = "each thread of this user counts as one, those outside of the container too"
        to_type = "docker run --ulimit nproc=65536:65536   # outside a container: ulimit -u 65536"
        found.append(warn("limits", f"{seen.user_processes} processes of this user", why, to_type))
    if world.has_infiniband and seen.locked_bytes is not None:
        why = "InfiniBand cards read memory that must be locked; without it NCCL goes over TCP or fails"
        mib = seen.locked_bytes >> 20
        found.append(warn("limits", f"{mib} MiB of locked memory", why, "docker run --ulimit memlock=-1:-1"))
    files = "any number of" if seen.open_files is None else seen.open_files
    yield from found or [ok("limits", f"{files} open files")]
    if seen.processes_unread:
        yield skipped("limits", seen.processes_unread, subject="processes")


def cpus(world: World) -> Iterator[Result]:
    """Cores enough for the loaders, and next to the GPUs."""
    seen, ranks = world.cpus, max(len(world.gpus), 1)
    usable = min(len(seen.allowed), seen.quota or len(seen.allowed))
    value = f"{usable:g} of {seen.total} cores"
    if seen.quota is not None and seen.quota < len(seen.allowed):
        cores = max(int(seen.quota), 1)
        why = f"programs here count {len(seen.allowed)} cores, start as many threads, and get {seen.quota:g} cores' worth of time"
        to_type = f"docker run --cpuset-cpus=0-{cores - 1}   # instead of --cpus; or workers={cores}"
        yield warn("cpus", value, why, to_type)
    elif world.gpus and usable < CORES_PER_GPU * ranks:
        why = f"pictures are decoded on the CPU, and {ranks} GPU{'s' if ranks > 1 else ''} will wait for them"
        yield warn("cpus", value, why, "docker run --cpuset-cpus=...   # more of them; or data_pipeline=gpu")
    else:
        yield ok("cpus", value)
    if seen.quota_unread:
        yield skipped("cpus", seen.quota_unread, subject="quota")
    for gpu in world.gpus:
        near = binding.parse(gpu.cpus)
        if near and not near & seen.allowed:
            why = f"this process may use none of the cores next to the GPU ({gpu.cpus}): every copy crosses the machine"
            yield warn(
                "cpus",
                "far away",
                why,
                f"docker run --cpuset-cpus={gpu.cpus}   # or taskset -c {gpu.cpus}",
                gpu.subject,
            )
        elif len(world.gpus) > 1:
            cpulists = {one.index: one.cpus for one in world.gpus}
            _, reason = binding.choose(gpu.index, cpulists, set(seen.allowed), seen.total)
            yield ok("cpus", f"a rank here is {reason}", subject=gpu.subject)


def workspace(world: World) -> Iterator[Result]:
    """Runs can be written, and will belong to the caller."""
    try:
        check_writable(world.runs)
    except ExitError as error:
        to_type = 'yolov12 train project=FOLDER ...   # one of yours; in a container: docker run -v "$PWD":/workspace'
        yield fail("workspace", str(world.runs), str(error), to_type)
        return
    if world.user == 0 and world.workspace_owner not in (None, 0):
        why = f"outputs will belong to root, and the folder belongs to user {world.workspace_owner}"
        yield warn(
            "workspace", str(world.runs), why, f"docker run --user {world.workspace_owner}   # or unset YOLOV12_USER"
        )
        return
    yield ok("workspace", f"runs go to {world.runs}", world.runs_reason)


def disks(world: World) -> Iterator[Result]:
    """Room and speed where runs are written, and where the data set lies."""
    yield _where_runs_go(world, nearest(world.runs))
    if world.data is None:
        yield skipped("disk", "no data set was named: yolov12 doctor data=my.yaml", subject="data")
    else:
        yield _where_data_lies(world, world.data)


def _where_runs_go(world: World, folder: Path) -> Result:
    free = world.free_bytes(folder)
    value = _gib_free(free)
    make_room = "df -h   # make room, or project=FOLDER on another disk"
    if free < LEAST_FREE_BYTES:
        return fail("disk", value, "not even one checkpoint of a large model fits", make_room, str(folder))
    if not os.access(folder, os.W_OK):
        return skipped("disk", "can not be written to (see workspace)", value, str(folder))
    try:
        speed = world.write_speed(folder)
    except OSError as error:  # a quota, say
        return fail("disk", value, f"a small file can not be written: {error.strerror}", make_room, str(folder))
    value += f", {_judged(speed)}"
    if free < FEW_FREE_BYTES:
        return warn("disk", value, "runs of large models, or many of them, will not fit", make_room, str(folder))
    if speed.is_enough and speed.mb_per_s < SLOW_WRITE_MB_PER_S:
        why = "checkpoints of large models take long to write"
        return warn("disk", value, why, "project=FOLDER   # on a local disk", str(folder))
    return ok("disk", value, subject=str(folder))


def _where_data_lies(world: World, folder: Path) -> Result:
    speed = world.read_speed(folder)
    if speed is None:
        if world.data_is_listed:
            return skipped("disk", "files list its pictures, of which none lies there", subject=str(folder))
        why = "a training would end before its first epoch"
        return fail("disk", "no pictures", why, "yolov12 data check my.yaml   # says what is missing", str(folder))
    value = f"{_gib_free(world.free_bytes(folder))}, {_judged(speed)}"  # room for cache=disk
    if not speed.is_enough:
        return skipped("disk", value, subject=str(folder))
    if speed.mb_per_s < SLOW_READ_MB_PER_S and speed.pictures_per_s < FEW_PICTURES_PER_S:
        why = "training will wait for pictures in the first epoch, and in all of them if they do not fit into memory"
        to_type = "cache=ram   # or cache=disk on a fast disk, or copy the data set to a local one"
        return warn("disk", value, why, to_type, str(folder))
    return ok("disk", value, subject=str(folder))


def _gib_free(free_bytes: int) -> str:
    return f"{free_bytes / 2**30:.1f} GiB free"


def _judged(speed: Speed) -> str:
    return f"{speed.mb_per_s:.0f} MB/s ({speed.what})" if speed.is_enough else f"{speed.what}: too little to judge"


def loader(world: World) -> Iterator[Result]:
    """Pictures are decoded, and loader processes bring them."""
    if world.torch_failure:
        yield skipped("loader", "torch can not be imported")
        return
    trial = world.loader()
    value = f"{trial.pictures_per_s:.0f} pictures/s of 320 px in {trial.threads} threads"
    if trial.worker_failure:
        why = f"loader processes did not bring a batch: {trial.worker_failure}"
        yield fail("loader", value, why, "workers=0   # loads in the training process; and see shm and limits")
    elif trial.first_failure:
        why = f"loader processes brought batches at a second try only; at the first: {trial.first_failure}"
        yield warn("loader", value, why, "yolov12 doctor   # again; if it stays so, see shm and limits")
    else:
        yield ok("loader", f"{value}; loader processes bring batches", f"JPEG decoder: {trial.decoder}")


def nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
