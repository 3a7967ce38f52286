# SPDX-License-Identifier: AGPL-3.0-or-later
"""What it costs before anything happens: the drop-in in every interpreter, `--help`, and importing `YOLO`.

Every value is a median over fresh interpreters. They skip the .pth files of this environment (-S), so that a drop-in that is installed
in it does not hide in the stock side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median

from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.record import DECLARED
from benchmarks.system import ROOT

ROWS = (
    Row(
        "dropin_start_ms",
        "ms",
        "lower",
        "what one .pth file adds to an interpreter's start: an empty one, or our drop-in",
    ),
    Row("cli_help_ms", "ms", "lower", "a whole process of `yolo help`, or of `yolov12 --help`"),
    Row("import_yolo_ms", "ms", "lower", "a whole process that imports YOLO from ultralytics, or from yolov12"),
)
HOOK = "yolov12_dropin.pth"
READ_PTH = """
import site, time
started_s = time.perf_counter()
site.addsitedir({site!r})
print((time.perf_counter() - started_s) * 1000)
"""
PROCESSES = {
    (
        "cli_help_ms",
        "stock",
    ): "import sys; sys.argv[1:] = ['help']; from ultralytics.cfg import entrypoint; entrypoint()",
    ("cli_help_ms", "ours"): "import sys; sys.argv[1:] = ['--help']; from yolov12.cli import main; sys.exit(main())",
    ("import_yolo_ms", "stock"): "from ultralytics import YOLO",
    ("import_yolo_ms", "ours"): "from yolov12 import YOLO",
}


def run_side(job: Job) -> Measured:
    """Median of several fresh interpreters for each row."""
    measured = Measured(declared=dict.fromkeys(DECLARED))
    for name in job.rows:
        try:
            measured.values[name] = _dropin_ms(job) if name == "dropin_start_ms" else _process_ms(name, job)
        except subprocess.CalledProcessError as error:
            measured.failed[name] = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
    return measured


def _dropin_ms(job: Job) -> float:
    """Read inside the interpreter, because a whole start varies by more than the drop-in may cost."""
    site = job.scratch / "site"
    site.mkdir()
    if job.side == "ours":
        shutil.copyfile(_hook(), site / HOOK)
    else:
        (site / "empty.pth").touch()
    code = READ_PTH.format(site=str(site))
    return median([float(_python(code)) for _ in range(job.parameters["light_starts"] + 1)][1:])


def _hook() -> Path:
    """The drop-in's file: the clone's, or in the image the one that is installed."""
    of_clone = ROOT / "env" / HOOK
    return of_clone if of_clone.is_file() else Path(sysconfig.get_path("purelib")) / HOOK


def _process_ms(name: str, job: Job) -> float:
    """From the start of the process to its end, after one that is not counted."""
    times_ms = []
    for _ in range(job.parameters["heavy_starts"] + 1):
        started_s = time.perf_counter()
        _python(PROCESSES[name, job.side])
        times_ms.append((time.perf_counter() - started_s) * 1000)
    return median(times_ms[1:])


def _python(code: str) -> str:
    """Standard output of a fresh interpreter; CalledProcessError if it fails, since its time would say nothing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment).stdout


BENCHMARK = Benchmark(
    name="start",
    claim="the drop-in adds next to nothing to an interpreter's start, and --help needs no torch",
    rows=ROWS,
    needs="cpu",
    run_side=run_side,
    parameters={"light_starts": 40, "heavy_starts": 3},
    timeout_s=300,
)
