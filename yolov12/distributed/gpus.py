# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the driver says of the GPUs that torch sees: free memory, use, links. Apart from devices.py, which needs neither torch nor a GPU.

Asked through NVML, the driver's own library, and not through CUDA, which would take some hundred MiB on each GPU for the rest of this process' life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from yolov12.distributed.devices import Gpu, beside
from yolov12.log import say_once


def seen_by_torch() -> list[Gpu]:
    """The GPUs that CUDA shows to this process, in its order."""
    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    addresses = [pci_address(one) for one in properties]
    told = _by_driver(addresses) or [_by_cuda(index) for index in range(count)]
    found = []
    for index in range(count):
        free_bytes, total_bytes, busy_percent, linked = told[index]
        node, cpus = beside(addresses[index])
        found.append(
            Gpu(index, properties[index].name, free_bytes, total_bytes, busy_percent, node, cpus, frozenset(linked))
        )
    return found


def pci_address(properties: Any) -> str:
    """ "0000:3b:00.0" of torch's properties of a GPU."""
    return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"


def next_to(index: int) -> tuple[int | None, str]:
    """(NUMA node, cores next to it) of a GPU by torch's index; (None, "") where the kernel does not say."""
    return beside(pci_address(torch.cuda.get_device_properties(index)))


def nodes_of(named: Sequence[int], local_size: int) -> list[int | None]:
    """The NUMA nodes of the GPUs of all ranks of this machine; None for those that are not known.

    Args:
        named: the GPUs that this process sees of them. Slurm's --gpus-per-task and its like show each process its own.
    """
    seen = [next_to(index)[0] for index in named[:local_size]]
    return [*seen, *[None] * (local_size - len(seen))] if seen else []


Told = tuple[int, int, int | None, list[int]]
"""Free and total bytes, use in percent, indices of the GPUs that NVLink reaches."""


def _by_driver(addresses: list[str]) -> list[Told] | None:
    """By NVML, which counts GPUs in another order than CUDA: they are found by their addresses. None, with a line, where it does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByPciBusId(address.encode()) for address in addresses]
        return [_told(pynvml, handles, index) for index in range(len(handles))]
    except pynvml.NVMLError as error:
        say_once(
            "nvml",
            f"device: the driver's NVML does not answer ({error}); how busy a GPU is and its links are not known",
        )
        return None


def _told(nvml: Any, handles: list[Any], index: int) -> Told:
    memory = nvml.nvmlDeviceGetMemoryInfo(handles[index])
    try:
        busy = int(nvml.nvmlDeviceGetUtilizationRates(handles[index]).gpu)
    except nvml.NVMLError:  # a share of a GPU (MIG) has none
        busy = None
    return (
        memory.free,
        memory.total,
        busy,
        [other for other in range(len(handles)) if _linked(nvml, handles, index, other)],
    )


def _linked(nvml: Any, handles: list[Any], one: int, other: int) -> bool:
    if one == other:
        return False
    try:
        status = nvml.nvmlDeviceGetP2PStatus(handles[one], handles[other], nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except nvml.NVMLError:  # not supported: no NVLink
        return False
    return bool(status == nvml.NVML_P2P_STATUS_OK)


def _by_cuda(index: int) -> Told:
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    return free_bytes, total_bytes, None, []
