# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run cost is added up over processes and over the parts of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolov12.engine import cost, energy
from yolov12.engine.cost import Cost, Share, lines, summary

ON_GPU = Share(
    seconds=3600,
    images=1000,
    data_wait_s=36,
    peer_wait_s=72,
    on_gpu=True,
    energy_j=1.8e6,
    utilisation=0.9,
    why_no_energy="",
)
ON_CPU = replace(ON_GPU, on_gpu=False, energy_j=None, utilisation=None, why_no_energy="no GPU", peer_wait_s=0)
CPU = torch.device("cpu")


def test_processes_are_added_up() -> None:
    found = summary([ON_GPU, replace(ON_GPU, utilisation=0.7, data_wait_s=0)], price=2.5)
    assert found["gpu_hours"] == 2
    assert found["hours"] == 1
    assert found["energy_kwh"] == pytest.approx(1.0)
    assert found["images_per_joule"] == pytest.approx(2000 / 3.6e6)
    assert found["mean_utilisation"] == pytest.approx(0.8)
    assert found["share_waiting_for_data"] == pytest.approx(0.005)
    assert found["share_waiting_for_peers"] == pytest.approx(0.02)
    assert found["price"] == 5.0


def test_the_lines_say_it() -> None:
    assert lines([ON_GPU, ON_GPU], price=2.5) == [
        "cost: 2.000 GPU-hours (1.000 h, 2 processes), 2000 images, 5.00 at 2.5 per GPU-hour, 1.000 kWh of the GPUs, "
        "0.00 images per joule, GPUs busy 90% of the time",
        "cost: waited 1.0% of the time for data and 2.0% for other processes",
    ]


def test_energy_that_one_gpu_does_not_count_is_not_told_for_the_others(tmp_path: Path) -> None:
    deaf = replace(ON_GPU, energy_j=None, why_no_energy="NVML: Not Supported")
    assert summary([ON_GPU, deaf], None)["energy_kwh"] is None
    assert "energy not counted (NVML: Not Supported)" in lines([ON_GPU, deaf], None)[0]


def test_on_the_cpu_there_are_no_gpu_hours_and_no_price() -> None:
    assert lines([ON_CPU], price=2.5) == [
        "cost: 1.000 h on the CPU, 1000 images",
        "cost: waited 1.0% of the time for data",
    ]


def test_a_resumed_run_adds_to_its_file_and_a_new_one_does_not(tmp_path: Path) -> None:
    def parts(resumed: bool) -> int:
        watched = Cost(CPU)
        watched.after_step(8)
        watched.finish(1.5, 0.0, tmp_path, None, price=None, resumed=resumed)
        found = json.loads((tmp_path / cost.FILE).read_text())["parts"]
        assert found[-1]["images"] == 8
        assert found[-1]["of_each_process"][0]["data_wait_s"] == 1.5
        return len(found)

    assert [parts(resumed) for resumed in (False, True, False)] == [1, 2, 1]
    (tmp_path / cost.FILE).write_text("not json")
    assert parts(True) == 1


class FakeNvml:
    """Counts 2 J at each look, and is half busy."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.millijoules = fails, 0

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        assert name == "GPU-abc"
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.fails:
            raise self.NVMLError("Not Supported")
        self.millijoules += 2000
        return self.millijoules

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=50)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    return torch.device("cuda", 0)


def test_energy_is_what_the_counter_grew_by(monkeypatch: pytest.MonkeyPatch, a_gpu: torch.device) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", FakeNvml())
    monkeypatch.setattr(cost, "SAMPLE_INTERVAL_S", 0.0)
    watched = Cost(a_gpu)
    watched.after_step(4)
    share = watched.share(data_wait_s=2.0, peer_wait_s=1.0)
    assert (share.energy_j, share.utilisation, share.images) == (2.0, 0.5, 4)
    assert (share.data_wait_s, share.peer_wait_s) == (2.0, 1.0)


def test_a_counter_that_fails_in_mid_run_ends_no_run(monkeypatch: pytest.MonkeyPatch, a_gpu: torch.device) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    monkeypatch.setattr(cost, "SAMPLE_INTERVAL_S", 0.0)

    def fails(handle: str) -> Any:
        raise nvml.NVMLError(
            "Unknown Error"
        )  # as in a container that lost its devices when the host reloaded its units

    watched = Cost(a_gpu)
    watched.after_step(4)
    monkeypatch.setattr(nvml, "nvmlDeviceGetUtilizationRates", fails)
    watched.after_step(4)
    share = watched.share(data_wait_s=2.0, peer_wait_s=1.0)
    assert (share.images, share.utilisation) == (8, 0.5)
    assert (share.energy_j, share.why_no_energy) == (None, "NVML: Unknown Error")


def test_a_gpu_without_a_counter_says_why(monkeypatch: pytest.MonkeyPatch, a_gpu: torch.device) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", FakeNvml(fails=True))
    assert energy.meter_of(a_gpu) == (None, "NVML: Not Supported")
    assert Cost(a_gpu).share(0.0, 0.0).energy_j is None
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert energy.meter_of(a_gpu) == (None, "the package nvidia-ml-py is not installed")
