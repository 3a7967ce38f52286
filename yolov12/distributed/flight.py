# SPDX-License-Identifier: AGPL-3.0-or-later
"""NCCL's flight recorder: the last collectives of each rank, written to a file when one of them takes longer than the timeout.

torch reads these variables when the process group is made. What the user has set stays.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from yolov12 import settings
from yolov12.log import say

ENTRIES = 2000
"""Collectives that are remembered: a step has a few, and a timeout spans some hundred steps."""


def record(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch it on, and say where the files will be. Called before the groups are made, on every rank."""
    environ.setdefault("TORCH_FR_BUFFER_SIZE", environ.get("TORCH_NCCL_TRACE_BUFFER_SIZE") or str(ENTRIES))
    environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    asked = environ.get("TORCH_FR_DUMP_TEMP_FILE") or environ.get("TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
    if not asked:
        folder = settings.cache_dir() / "nccl"
        folder.mkdir(mode=0o700, exist_ok=True)
        asked = str(folder / "flight-recorder-rank")
        environ["TORCH_FR_DUMP_TEMP_FILE"] = environ["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] = asked
    say(f"distributed: if a collective takes longer than the timeout, each rank's last ones are written to {asked}N")
