# SPDX-License-Identifier: AGPL-3.0-or-later
"""The clocks of a device as they are found, beside what was timed under them. Nothing here sets any."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

FIELDS = {"clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "temperature.gpu": "gpu_c", "power.draw": "gpu_w"}
"""What nvidia-smi calls it -> what a table calls it."""
CPUINFO = Path("/proc/cpuinfo")


def as_found(device: str) -> dict[str, float]:
    """Megahertz, and of a GPU also its temperature and power; what the machine does not tell is left out.

    Args:
        device: as ultralytics takes it: "0" and so on for a GPU, or "cpu".
    """
    if device == "cpu":
        return of_cpu(CPUINFO.read_text()) if CPUINFO.is_file() else {}
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    # nvidia-smi counts all GPUs of the machine, and takes their UUIDs too.
    of_machine = visible[int(device)] if device.isdigit() and int(device) < len(visible) else device
    query = ["nvidia-smi", f"--id={of_machine}", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    return of_gpu(answer.stdout) if answer.returncode == 0 else {}


def of_gpu(line: str) -> dict[str, float]:
    """nvidia-smi's answer for one GPU."""
    cells = dict(zip(FIELDS.values(), (cell.strip() for cell in line.split(",")), strict=False))
    return {name: float(cell) for name, cell in cells.items() if re.fullmatch(r"\d+(\.\d+)?", cell)}


def of_cpu(cpuinfo: str) -> dict[str, float]:
    """The mean of all cores."""
    found = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE)]
    return {"cpu_mhz": round(sum(found) / len(found), 1)} if found else {}
