# SPDX-License-Identifier: AGPL-3.0-or-later
"""The trainer's place among processes and GPUs: the device argument, how many ranks this machine starts, what all ranks must have in common."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import ultralytics

from yolov12 import __version__, settings
from yolov12.declare import as_text
from yolov12.distributed import binding, devices, nic
from yolov12.distributed.gpus import next_to, nodes_of
from yolov12.distributed.launchers import Machines, World
from yolov12.distributed.ranks import wanted_here
from yolov12.errors import UserError
from yolov12.log import say

OWN_OF_A_MACHINE = "device data model pretrained project name save_dir resume cfg workers cache exist_ok".split()
"""Arguments that may differ between ranks: paths, which a machine may have elsewhere, and what its own GPUs and cores are."""
GPU = "the kind of GPU, which mixed_gpus=1 allows"
SETTINGS_OF_A_MACHINE = {"cache_dir", "trt_cache_dir", "price_per_gpu_hour", "user", "offline"}


def with_device(here: World, machines: Machines | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Under a launcher, and without a device argument, name this machine's GPUs: one per local rank, or all that `device=auto` would take."""
    if (here.is_alone and machines is None) or overrides.get("device") not in (None, "", "auto"):
        return overrides
    device, reason = devices.auto(devices.visible_gpus(), wanted_here(here, machines))
    say(f"device: {device} ({reason})")
    return {**overrides, "device": device}


def with_folder(machines: Machines | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """On later machines, name a temporary folder for the process that starts their ranks; those take over rank 0's (trainer.py).

    ultralytics' launcher makes a run's folder and removes it again before the ranks start (engine/trainer.py:166, utils/dist.py:130). On a shared
    file system a later machine would take the first one's name, or remove what an earlier run left under it.
    """
    if machines is None or machines.node == 0 or overrides.get("resume"):
        return overrides
    return {**overrides, "save_dir": tempfile.mkdtemp(prefix="yolov12-")}


def gpu_of_rank(device: str, here: World) -> int:
    """The GPU that this rank takes of those that `device` names.

    Raises:
        UserError: fewer are named than there are ranks.
    """
    named = [int(index) for index in device.split(",")]
    if len(named) > here.local_rank:
        return named[here.local_rank]
    # Slurm's --gpus-per-task and its like show each process a GPU of its own, which is the first that it sees.
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named == [0] and shown and "," not in shown:
        return 0
    raise UserError(
        f"device={device} names {len(named)} GPU(s) for {here.local_size} ranks on this machine; "
        "leave device out, or start one rank for each GPU"
    )


def check_batch(batch: object, ranks: int) -> None:
    """Refuse a batch that leaves a rank without an image. What is no number is not known yet, or ultralytics' to refuse.

    Raises:
        UserError: the smallest batch that works.
    """
    if isinstance(batch, (int, float)) and 1 <= batch < ranks:
        raise UserError(f"batch={batch:g} is over all processes, and there are {ranks}: type batch={ranks} or more")


def in_common(arguments: Mapping[str, Any], data: Mapping[str, Any], device: torch.device) -> dict[str, object]:
    """What must be the same on all ranks, by name: versions, settings, arguments, and the classes of the data set."""
    current = settings.current()
    facts: dict[str, object] = {
        "yolov12": __version__,
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "device": device.type,
        "classes": as_text(list((data.get("names") or {}).values())),
    }
    if device.type == "cuda":
        facts[GPU] = torch.cuda.get_device_name(device)
        facts["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    facts |= {
        declaration.env: getattr(current, name)
        for name, declaration in settings.DECLARED.items()
        if name not in SETTINGS_OF_A_MACHINE
    }
    return facts | {name: value for name, value in arguments.items() if name not in OWN_OF_A_MACHINE}


def bind(index: int, device: str, local_size: int) -> str:
    """Keep this rank on the cores next to its GPU, where that helps; the reason.

    Args:
        index: of this rank's GPU.
        device: names the GPUs of all ranks of this machine.
    """
    cpulists = {one: next_to(one)[1] for one in map(int, device.split(",")[:local_size])}
    cpus, reason = binding.choose(index, cpulists, os.sched_getaffinity(0), os.cpu_count() or 1)
    if cpus:
        binding.bind(cpus)
    return reason


def choose_network(device: str, here: World) -> None:
    """Choose the network devices of this machine's ranks, where there are several machines; before they join.

    Args:
        device: names the GPUs of all ranks of this machine, or the CPU.
    """
    named = [] if device in ("", "cpu", "mps") else list(map(int, device.split(",")))
    nic.choose_and_tell(here, lambda: nodes_of(named, here.local_size))
