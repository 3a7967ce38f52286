# SPDX-License-Identifier: AGPL-3.0-or-later
"""What of this machine goes into native code besides its GPU: versions for the cache's keys, so that another one is a miss and never a wrong hit."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch

from yolov12 import driver

CPUINFO = Path("/proc/cpuinfo")


def driver_version() -> str:
    """NVIDIA's own version of the driver, as "580.95.05"; "" where torch sees no GPU, or nothing tells it.

    Many drivers speak one version of CUDA, so that one does not tell them apart.
    """
    return driver.version() if torch.cuda.is_available() else ""


def cuda_version() -> str:
    """The version of CUDA that the driver's library speaks, as "13.0"; "" without a GPU.

    The library may be newer than the driver in the kernel (NVIDIA's package cuda-compat), so neither version tells the other.
    """
    if not torch.cuda.is_available():
        return ""
    spoken = getattr(torch._C, "_cuda_getDriverVersion", lambda: 0)()
    return f"{spoken // 1000}.{spoken % 1000 // 10}"


def cpuinfo() -> str:
    """What the kernel says of the CPU; "" where it says nothing."""
    return CPUINFO.read_text() if CPUINFO.is_file() else ""


def processor() -> str:
    """The CPU's architecture and name, as "x86_64 Intel(R) Xeon(R) Platinum 8581C"; an arm one has a number for a name."""
    found = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", cpuinfo(), re.MULTILINE)
    return " ".join(filter(None, (platform.machine(), found[1] if found else "")))


def cxx() -> str:
    """The C++ compiler that torch calls (torch/_inductor/config.py, `cpp.cxx`)."""
    return os.environ.get("CXX", "g++")


def compiler_version() -> str:
    """What the C++ compiler calls itself, as "g++ (Debian 12.2.0-14) 12.2.0"; "" where there is none."""
    if shutil.which(cxx()) is None:
        return ""
    command = [cxx(), "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return told.stdout.partition("\n")[0].strip()
