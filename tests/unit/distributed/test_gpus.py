# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is made of the answers of CUDA and of the driver, both of which the test makes up."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from yolov12 import log
from yolov12.distributed import gpus
from yolov12.distributed.devices import Gpu

GIB = 2**30


class NVMLError(Exception):
    pass


class Driver(SimpleNamespace):
    """A driver that counts GPUs from the other end, as NVML may. A handle is an address."""

    NVMLError = NVMLError
    NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_OK = 2, 0
    used_gib = {"0000:3b:00.0": 1, "0000:86:00.0": 60}
    starts = True

    def nvmlInit(self) -> None:
        if not self.starts:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByPciBusId(self, address: bytes) -> str:
        return address.decode()

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(free=(80 - self.used_gib[handle]) * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if self.used_gib[handle] == 1:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetP2PStatus(self, one: str, other: str, index: int) -> int:
        assert (one != other, index) == (True, 2)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Two GPUs that torch sees, and their driver."""
    buses = (0x3B, 0x86)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(name="A", pci_domain_id=0, pci_bus_id=buses[index], pci_device_id=0),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (index * GIB, 80 * GIB))
    monkeypatch.setattr(gpus, "beside", lambda address: (int(address == "0000:86:00.0"), "0-3"))
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_the_driver_s_answers_go_to_the_gpus_with_their_addresses(driver: Driver) -> None:
    assert gpus.seen_by_torch() == [
        Gpu(0, "A", 79 * GIB, 80 * GIB, None, 0, "0-3", frozenset({1})),
        Gpu(1, "A", 20 * GIB, 80 * GIB, 97, 1, "0-3", frozenset({0})),
    ]


def test_without_the_driver_s_library_cuda_is_asked_for_memory_and_it_is_said(
    driver: Driver, capsys, monkeypatch
) -> None:
    driver.starts = False
    monkeypatch.setattr(log, "_said", set())
    assert [(gpu.free_bytes, gpu.busy_percent, gpu.nvlinks) for gpu in gpus.seen_by_torch()] == [
        (0, None, frozenset()),
        (GIB, None, frozenset()),
    ]
    assert "the driver's NVML does not answer (Driver Not Loaded)" in capsys.readouterr().err


def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpus.seen_by_torch() == []
