# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the doctor reads from NVML, with faults planted in its answers: by the real module's own errors, on stand-ins of its functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pynvml
import pytest

from tests.unit.tools.doctor import worlds
from yolov12 import driver
from yolov12.tools.doctor import gpu_checks, nvml
from yolov12.tools.doctor.result import Result

OLD, NEW = "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons"
IDLE, POWER_CAP, SYNC_BOOST, DISPLAY = 0x1, 0x4, 0x10, 0x100


def answers(value: Any) -> Callable[..., Any]:
    """A function of NVML; an error code is raised as pynvml raises it."""

    def call(*arguments: Any) -> Any:
        if isinstance(value, pynvml.NVMLError):
            raise value
        return value

    return call


def error(name: str) -> pynvml.NVMLError:
    return pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{name}"))


@pytest.fixture(autouse=True)
def kernel_module(monkeypatch, tmp_path):
    """Where the kernel's module would tell its version; it does not."""
    monkeypatch.setattr(driver, "KERNEL_MODULE", tmp_path / "version")
    return tmp_path / "version"


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Answers of a healthy driver, with those that are given in their place."""

    def plant(**given: Any) -> None:
        healthy = {
            "nvmlInit": None,
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlSystemGetCudaDriverVersion": 13000,
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByPciBusId": "handle",
            NEW: IDLE,
            OLD: IDLE,
        }
        for name, value in (healthy | given).items():
            monkeypatch.setattr(pynvml, name, answers(value))

    plant()
    return plant


def clocks(tmp_path) -> Result:
    """What the check of the clocks says of one GPU."""
    world = replace(worlds.healthy(tmp_path), gpus=worlds.GPUS[:1], slowdowns=lambda gpu: nvml.slowdowns(gpu.pci))
    (result,) = gpu_checks.clocks(world)
    return result


@pytest.mark.parametrize("bits", [0, IDLE, POWER_CAP, SYNC_BOOST, DISPLAY, IDLE | POWER_CAP | SYNC_BOOST | DISPLAY])
def test_clocks_that_nothing_holds_down_are_well(plant, tmp_path, bits):
    plant(**{NEW: bits})
    assert clocks(tmp_path).status == "ok"


@pytest.mark.parametrize(
    ("bit", "words", "to_type"),
    [
        (pynvml.nvmlClocksEventReasonHwSlowdown, "hardware slowdown", "TEMPERATURE,POWER"),
        (pynvml.nvmlClocksEventReasonSwThermalSlowdown, "temperature, in software", "-d TEMPERATURE"),
        (pynvml.nvmlClocksEventReasonHwThermalSlowdown, "temperature, in hardware", "-d TEMPERATURE"),
        (pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown, "power brake", "-d POWER"),
        (pynvml.nvmlClocksEventReasonApplicationsClocksSetting, "set the clocks lower", "--reset-gpu-clocks"),
    ],
)
def test_each_reason_is_found_by_its_bit_beside_harmless_ones(plant, tmp_path, bit, words, to_type):
    plant(**{NEW: bit | IDLE | POWER_CAP})
    result = clocks(tmp_path)
    assert result.status == "warn"
    assert words in result.value
    assert to_type in result.to_type


def test_all_bits_that_nvml_knows_are_either_a_fault_or_known_to_be_harmless():
    known = sum(gpu_checks.SLOWDOWNS) | IDLE | POWER_CAP | SYNC_BOOST | DISPLAY
    assert known & pynvml.nvmlClocksEventReasonAll == pynvml.nvmlClocksEventReasonAll


@pytest.mark.parametrize("name", ["GPU_IS_LOST", "RESET_REQUIRED"])
@pytest.mark.parametrize("where", ["nvmlDeviceGetHandleByPciBusId", NEW])
def test_a_gpu_that_is_lost_is_a_failure(plant, tmp_path, name, where):
    plant(**{where: error(name)})
    result = clocks(tmp_path)
    assert (result.status, result.value) == ("fail", str(error(name)))
    assert "dmesg" in result.to_type


@pytest.mark.parametrize("name", ["NO_PERMISSION", "NOT_SUPPORTED", "OPERATING_SYSTEM", "UNKNOWN"])
@pytest.mark.parametrize("where", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", NEW])
def test_few_rights_and_a_share_of_a_gpu_are_no_fault_and_said(plant, tmp_path, name, where):
    plant(**{where: error(name)})
    result = clocks(tmp_path)
    assert (result.status, result.why) == ("skipped", f"the driver does not say: {error(name)}")


def test_a_driver_with_the_older_name_alone_is_asked_by_that(plant, tmp_path):
    plant(**{NEW: error("FUNCTION_NOT_FOUND"), OLD: pynvml.nvmlClocksThrottleReasonHwThermalSlowdown})
    assert "temperature, in hardware" in clocks(tmp_path).value


def test_a_driver_without_either_says_so(plant, tmp_path):
    plant(**{NEW: error("FUNCTION_NOT_FOUND"), OLD: error("FUNCTION_NOT_FOUND")})
    assert clocks(tmp_path).why == "the driver does not say: it has no function for that"


def test_an_older_module_has_the_older_name_alone(plant, tmp_path, monkeypatch):
    plant(**{OLD: pynvml.nvmlClocksThrottleReasonHwSlowdown})
    monkeypatch.delattr(pynvml, NEW)
    assert "hardware slowdown" in clocks(tmp_path).value


def test_without_the_module_both_readings_are_absent_and_nothing_breaks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.driver() == ("", None, None)
    result = clocks(tmp_path)
    assert (result.status, result.why) == ("skipped", "the driver does not say: pynvml is not installed")


@pytest.mark.parametrize(("version", "cuda", "read"), [("580.65.06", 13000, (13, 0)), (b"570.86.10", 12080, (12, 8))])
def test_what_the_driver_says_of_itself(plant, version, cuda, read):
    plant(nvmlSystemGetDriverVersion=version, nvmlSystemGetCudaDriverVersion=cuda, nvmlDeviceGetCount=8)
    assert nvml.driver() == (version if isinstance(version, str) else version.decode(), read, 8)


@pytest.mark.parametrize(
    ("silent", "read"),
    [
        ("nvmlSystemGetDriverVersion", ("", (13, 0), 2)),
        ("nvmlSystemGetCudaDriverVersion", ("580.65.06", None, 2)),
        ("nvmlDeviceGetCount", ("580.65.06", (13, 0), None)),
    ],
)
@pytest.mark.parametrize("name", ["NO_PERMISSION", "NOT_SUPPORTED", "FUNCTION_NOT_FOUND"])
def test_one_answer_that_is_refused_costs_no_other(plant, silent, read, name):
    plant(**{silent: error(name)})
    assert nvml.driver() == read


def test_where_the_library_does_not_start_the_kernels_module_tells_the_version(plant, kernel_module):
    kernel_module.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12"
    )
    plant(nvmlInit=error("LIBRARY_NOT_FOUND"))
    assert nvml.driver() == ("580.65.06", None, None)


def test_without_a_driver_nothing_is_known_of_it(plant):
    plant(nvmlInit=error("LIBRARY_NOT_FOUND"))
    assert nvml.driver() == ("", None, None)
