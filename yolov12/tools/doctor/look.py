# SPDX-License-Identifier: AGPL-3.0-or-later
"""The world that the checks look at, as it is here. Whatever does not answer is absent from it, and the check says so."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolov12 import folders, settings
from yolov12.data import datayaml, fonts
from yolov12.distributed import devices
from yolov12.tools import verify
from yolov12.tools.doctor import cgroup, nvml, probes
from yolov12.tools.doctor.world import Cpus, Driver, Gpu, Limits, Trial, World

SHM = Path("/dev/shm")
INFINIBAND = Path("/dev/infiniband")


def look(options: Mapping[str, Any]) -> World:
    """Everything here.

    Args:
        options: `data`, `project` and `deep` of the command line.

    Raises:
        UserError: `data=` names no data set.
    """
    data, is_listed = _data(options["data"]) if options.get("data") else (None, False)
    runs, runs_reason = folders.runs_folder()
    if options.get("project"):
        runs, runs_reason = Path(options["project"]).absolute(), f"project={options['project']}"
    cache, cache_reason = settings.cache_choice()
    torch_failure, torch_cuda = _torch()
    gpus, gpu_failures = ((), {}) if torch_failure else _gpus()
    installed = verify.look()
    return World(
        environ=os.environ,
        is_image=installed.promised is not None,
        deep=bool(options.get("deep")),
        driver=_driver(verify.PROMISES),
        torch_failure=torch_failure,
        torch_cuda=torch_cuda,
        gpus=gpus,
        gpu_failures=gpu_failures,
        installed=installed,
        shm_free_bytes=shutil.disk_usage(SHM).free if SHM.is_dir() else None,
        limits=_limits(),
        has_infiniband=INFINIBAND.is_dir(),
        cpus=Cpus(frozenset(os.sched_getaffinity(0)), os.cpu_count() or 1, *cgroup.cores()),
        data=data,
        data_is_listed=is_listed,
        runs=runs,
        runs_reason=runs_reason,
        workspace_owner=folders.WORKSPACE.stat().st_uid if folders.WORKSPACE.is_dir() else None,
        user=os.getuid(),
        cache=cache,
        cache_reason=cache_reason,
        engines=settings.current().trt_cache_dir or cache / "engines",
        font=_font(),
        logger_settings=_ultralytics_settings(),
        attention=_attention,
        describe_cpu_attention=_describe_cpu_attention,
        slowdowns=lambda gpu: nvml.slowdowns(gpu.pci),
        all_reduce=lambda: probes.all_reduce(bool(gpus)),
        write_speed=probes.write_speed,
        read_speed=probes.read_speed,
        free_bytes=lambda folder: shutil.disk_usage(folder).free,
        loader=lambda: probes.loader(bool(gpus)),
        runs_code_from_weights=probes.runs_code_from_weights,
    )


def _data(name: str) -> tuple[Path, bool]:
    """(a folder with pictures of the data set, its root where there is none; whether files list them, which may lie anywhere)."""
    found = datayaml.load(name)
    places = [place for split in found.splits.values() for place in split]
    candidates = (found.root, *(place for place in places if place.is_dir()))
    return next(filter(probes.has_pictures, candidates), found.root), any(place.is_file() for place in places)


def _torch() -> tuple[str, str | None]:
    """(why it can not be imported, the CUDA that it was built for)."""
    try:
        import torch
    except (ImportError, OSError) as error:  # missing, or one of its libraries is
        return str(error), None
    return "", torch.version.cuda


def _gpus() -> tuple[tuple[Gpu, ...], dict[int, str]]:
    """(the GPUs that torch sees, what it says of each that it counts and can not ask)."""
    import torch

    if not torch.cuda.is_available():
        return (), {}
    from yolov12.distributed.gpus import pci_address

    found: list[Gpu] = []
    failures: dict[int, str] = {}
    for index in range(torch.cuda.device_count()):
        try:
            properties = torch.cuda.get_device_properties(index)
        except (RuntimeError, AssertionError) as error:  # a dead GPU: an INTERNAL ASSERT, or CUDA that does not start
            failures[index] = str(error).strip().partition("\n")[0] or type(error).__name__
            continue
        pci = pci_address(properties)
        capability = (properties.major, properties.minor)
        found.append(Gpu(index, properties.name, capability, pci, devices.beside(pci)[1]))
    return tuple(found), failures


def _driver(promises: Path) -> Driver:
    version, cuda, gpus = nvml.driver()
    least = _read(promises / "least_driver").strip()
    return Driver(
        version=version,
        cuda=cuda,
        is_reachable=any(place.exists() for place in (Path("/dev/nvidiactl"), Path("/dev/dxg"))),
        least=int(least) if least.isdigit() else None,
        older=older_drivers(_read(promises / "older_drivers")),
        gpus=gpus,
    )


def older_drivers(text: str) -> tuple[tuple[int, str], ...]:
    """ "570=12.8" -> ((570, "12.8"),); "none" and nothing are empty."""
    pairs = [word.split("=") for word in text.split() if "=" in word]
    return tuple((int(driver), cuda) for driver, cuda in pairs)


def _limits() -> Limits:
    files, most = (_bounded(value) for value in resource.getrlimit(resource.RLIMIT_NOFILE))
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    of_user, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    processes, unread = cgroup.processes()
    return Limits(
        files,
        most,
        _bounded(locked),
        None if processes is None else int(processes),
        unread,
        _bounded(of_user) if os.getuid() else None,
    )


def _bounded(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _ultralytics_settings() -> Mapping[str, Any]:
    """Nothing where ultralytics, or torch under it, can not be imported: other checks say so."""
    try:
        from ultralytics.utils import SETTINGS
    except (ImportError, OSError):
        return {}
    return dict(SETTINGS)


def _font() -> Path:
    try:
        return fonts.bundled()
    except ImportError as error:
        return Path(f"({error})")


def _attention(gpu: Gpu) -> Trial:
    """
    Raises:
        MemoryError: the GPU is full.
        RuntimeError: the kernel does not run.
    """
    import torch

    try:
        return probes.attention(torch.device("cuda", gpu.index))
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error).partition("\n")[0]) from error


def _describe_cpu_attention() -> tuple[str, str]:
    import torch

    from yolov12.model.attention import describe

    return describe("cpu", torch.float32, True)
