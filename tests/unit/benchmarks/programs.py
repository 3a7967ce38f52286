# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs with small parameters on the CPU. The numbers mean nothing there; that they come, from the right side, does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil

from benchmarks import harness, record, system
from benchmarks.harness import Job

COMMAND = [sys.executable, "-m", "benchmarks"]


CAPTURE = {
    "capture_output": True,
    "text": True,
    "check": True,
    "env": {**os.environ, "PYTHONPATH": str(system.ROOT), "YOLOV12_DISABLE": "1"},
}


def run(records: Path, *arguments: str, expected: int = 0) -> dict:
    """The record of `python -m benchmarks run`, which ends with the expected exit code."""
    done = subprocess.run(
        [*COMMAND, "run", *arguments, "--records", str(records)], cwd=system.ROOT, capture_output=True, text=True
    )
    assert done.returncode == expected, done.stderr + "".join(log.read_text() for log in records.glob("*/*.log"))
    (path,) = records.glob("*/*.json")
    content = json.loads(path.read_text())
    jsonschema.validate(content, json.loads(record.SCHEMA.read_text()))
    return content


def job(name: str, side: str, rows: tuple[str, ...], scratch: Path, **parameters: object) -> Job:
    defaults = harness.discover()[name].parameters
    return Job(side, {**defaults, **parameters}, rows, scratch, time.monotonic())


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing once it has ended, whether somebody waited for it or not."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def wait_for(condition, limit_s: float = 60):
    """What `condition` gives once it is true."""
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.05)
    return found
