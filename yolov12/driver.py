# SPDX-License-Identifier: AGPL-3.0-or-later
"""NVIDIA's own version of the driver, for a cache's keys and for the doctor. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def version() -> str:
    """As "580.95.05", by the driver's library, else by its kernel module; "" where neither tells it."""
    return _by_nvml() or of_kernel_module(KERNEL_MODULE)


def of_kernel_module(file: Path) -> str:
    """The version in the kernel module's words; "" where there are none."""
    try:
        found = re.search(r"\s(\d+\.[\d.]+)\s", file.read_text())
    except OSError:  # no driver, or a sandbox that shows nothing of it
        return ""
    return found[1] if found else ""


def _by_nvml() -> str:
    try:
        import pynvml
    except ImportError:  # what needs no GPU does without it
        return ""
    try:
        pynvml.nvmlInit()
        found: Any = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return ""
    return found.decode() if isinstance(found, bytes) else str(found)
