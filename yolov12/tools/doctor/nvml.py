# SPDX-License-Identifier: AGPL-3.0-or-later
"""What NVML, the driver's own library, says of the driver and of a GPU's clocks.

Each question is asked apart: an old driver, a container with few rights and a share of a GPU (MIG) answer some and not others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from yolov12 import driver as nvidia

CLOCKS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
"""The same bits; the second is the name before driver 535."""


class LostGpuError(Exception):
    """The driver can not reach a GPU any more, in its own words."""


def driver() -> tuple[str, tuple[int, int] | None, int | None]:
    """(driver, newest CUDA that it runs, how many GPUs it has); what it does not say is "" or None."""
    version = nvidia.version()
    try:
        nvml = _started()
    except OSError:
        return version, None, None
    cuda, gpus = _ask(nvml, "nvmlSystemGetCudaDriverVersion"), _ask(nvml, "nvmlDeviceGetCount")
    return version, None if cuda is None else (cuda // 1000, cuda % 1000 // 10), gpus


def slowdowns(pci: str) -> int:
    """NVML's bits (nvmlClocksEventReason*) of why the clocks of the GPU at this address are what they are.

    Raises:
        OSError: it does not say.
        LostGpuError: the GPU has to be reset, or is gone.
    """
    nvml = _started()
    try:
        return _clock_reasons(nvml, nvml.nvmlDeviceGetHandleByPciBusId(pci.encode()))
    except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired) as error:
        raise LostGpuError(str(error)) from error
    except nvml.NVMLError as error:  # few rights, a share of a GPU (MIG)
        raise OSError(str(error)) from error


def _clock_reasons(nvml: Any, handle: Any) -> int:
    for name in CLOCKS:
        with suppress(nvml.NVMLError_FunctionNotFound, AttributeError):  # an old driver; an old module
            return int(getattr(nvml, name)(handle))
    raise OSError("it has no function for that")


def _started() -> Any:
    """The module pynvml, ready to be asked.

    Raises:
        OSError: it is not installed, or there is no driver.
    """
    try:
        import pynvml
    except ImportError as error:
        raise OSError(f"{error.name or 'pynvml'} is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise OSError(str(error)) from error
    return pynvml


def _ask(nvml: Any, name: str) -> Any:
    """None where this driver, or this version of the module, has no answer."""
    try:
        return getattr(nvml, name)()
    except (nvml.NVMLError, AttributeError):
        return None
