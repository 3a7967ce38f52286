# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `yolov12 env` says above the settings: versions, hardware, folders. Nothing heavy is imported; the driver is asked through /proc."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from yolov12 import __version__, folders, settings
from yolov12 import driver as nvidia

PACKAGES = ("ultralytics", "torch", "torchvision", "onnxruntime", "flash_attn")
DRIVER = Path("/proc/driver/nvidia")


def lines() -> Iterator[str]:
    """One line per fact."""
    cache, reason = settings.cache_choice()
    yield f"yolov12      {__version__} ({Path(__file__).parents[1]})"
    yield f"python       {platform.python_version()} ({sys.executable})"
    for name in PACKAGES:
        yield f"{name:12} {_version(name)}"
    yield f"GPUs         {gpus(DRIVER)}"
    yield f"CPU cores    {len(os.sched_getaffinity(0))}"
    yield "runs         {} ({})".format(*folders.runs_folder())
    yield f"cache        {cache} ({reason})"


def gpus(driver: Path) -> str:
    """The GPUs that the driver lists under `driver`, and its version. torch may see fewer (CUDA_VISIBLE_DEVICES)."""
    models = [
        found[1].strip()
        for file in sorted(driver.glob("gpus/*/information"))
        if (found := re.search(r"^Model:(.*)$", file.read_text(), re.MULTILINE))
    ]
    if not models:
        return f"none (nothing is listed in {driver})"
    release = nvidia.of_kernel_module(driver / "version")
    return ", ".join(models) + (f" (driver {release})" if release else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
