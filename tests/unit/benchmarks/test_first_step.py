# SPDX-License-Identifier: AGPL-3.0-or-later
"""first_step: a start up to its first step, with empty caches and with those of the start before."""

from __future__ import annotations

import re
import subprocess
import sys

import psutil
import pytest

from benchmarks import child, harness, system
from tests.unit.benchmarks.programs import CAPTURE, command_of, job, run, wait_for


@pytest.mark.timeout(900)  # two starts of each side
def test_the_first_step_of_both_sides_is_timed_with_empty_caches_and_with_those_of_the_first_start(photos, tmp_path):
    small = {"imgsz": 32, "batch": 4, "workers": 1, "device": "cpu", "data": photos}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "first_step", "--no-warmup", "--repeats", "1", *settings)
    cold, warm = content["rows"]
    said = r"YOLO imported at ([\d.]+) s, first batch asked for at ([\d.]+) s, there at ([\d.]+) s, step done at ([\d.]+) s"
    for row in (cold, warm):
        for side in ("stock", "ours"):
            times_s = [float(text) for text in re.search(f"{side}: {said}", row["note"]).groups()]
            assert times_s == sorted(times_s)
            assert times_s[-1] == pytest.approx(row[side][0], abs=0.051)
    assert content["declared"]["stock"]["batch"] == content["declared"]["ours"]["batch"] == 4
    (log,) = (tmp_path / "records").glob("*/*.log")
    for found_by_the_second_start in (
        r"train: Scanning \S*train\.cache\.\.\.",
        r"train: \S*train\.yolov12-cache: 4 images",
    ):
        assert len(re.findall(found_by_the_second_start, log.read_text())) == 1


def test_a_start_ends_with_the_workers_of_its_loader(tmp_path):
    code = """
import multiprocessing, signal, time
from benchmarks.programs import first_step
def fail(*_): raise RuntimeError("a worker went")
signal.signal(signal.SIGCHLD, fail)
worker = multiprocessing.Process(target=time.sleep, args=(600,))
worker.start()
print(worker.pid)
first_step.end_at_once()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=system.ROOT, **CAPTURE)
    wait_for(lambda: not command_of(psutil.Process(int(done.stdout))) if psutil.pid_exists(int(done.stdout)) else True)


def test_a_first_start_that_fails_leaves_nothing_for_a_second(monkeypatch, tmp_path):
    program = harness.discover()["first_step"].run_side
    failed = child.Run([], None, "exit code 1: no such model")
    made = []
    monkeypatch.setitem(program.__globals__, "_start_once", lambda job: made.append(job) or failed)
    measured = program(job("first_step", "ours", ("first_step_cold", "first_step_warm"), tmp_path))
    assert measured.failed == dict.fromkeys(("first_step_cold", "first_step_warm"), "exit code 1: no such model")
    assert len(made) == 1
