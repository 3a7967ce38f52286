# SPDX-License-Identifier: AGPL-3.0-or-later
"""A GPU's own counters of energy and utilisation, read through NVML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch


class CounterError(Exception):
    """A counter that can not be read; says why."""


class Meter(Protocol):
    """Of one GPU. Both raise CounterError."""

    def energy_j(self) -> float:
        """Used by the board since the driver was loaded."""

    def utilisation(self) -> float:
        """Share of the last sampling period, of up to a second, in which anything ran on it; 0 to 1."""


class OfNvml:
    """Reads the counters of a GPU that NVML knows.

    Args:
        nvml: the module.
        handle: of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def energy_j(self) -> float:
        return float(self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption)) / 1e3

    def utilisation(self) -> float:
        return float(self._read(self._nvml.nvmlDeviceGetUtilizationRates).gpu) / 100

    def _read(self, counter: Callable[[Any], Any]) -> Any:
        try:
            return counter(self._handle)
        except self._nvml.NVMLError as error:
            raise CounterError(f"NVML: {error}") from error


def meter_of(device: torch.device) -> tuple[Meter | None, str]:
    """The meter of a device, or None and the reason. Each reading of it has worked once."""
    if device.type != "cuda":
        return None, "no GPU"
    try:
        import pynvml
    except ImportError:
        return None, "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        # By its name, since CUDA_VISIBLE_DEVICES numbers GPUs anew.
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        meter = OfNvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
        meter.energy_j(), meter.utilisation()
    except pynvml.NVMLError as error:  # no driver
        return None, f"NVML: {error}"
    except CounterError as error:  # older than Volta, a share of a GPU (MIG)
        return None, str(error)
    return meter, ""
