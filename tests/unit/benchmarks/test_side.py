# SPDX-License-Identifier: AGPL-3.0-or-later
"""One side in a process of its own: what it declares, and that it ends with the program."""

from __future__ import annotations

import json
import subprocess

import psutil

from benchmarks import record, system
from tests.unit.benchmarks.programs import CAPTURE, COMMAND, command_of, wait_for


def test_every_program_declares_what_a_reader_must_know(tmp_path):
    done = subprocess.run(
        [*COMMAND[:2], "benchmarks.side", "start", "stock", "--rows", "dropin_start_ms"], cwd=system.ROOT, **CAPTURE
    )
    assert set(record.DECLARED) <= set(json.loads(done.stdout)["declared"])


def test_stopping_the_program_stops_the_side_that_it_runs(tmp_path):
    arguments = [
        "run",
        "start",
        "--rows",
        "dropin_start_ms",
        "--set",
        "light_starts=100000",
        "--records",
        str(tmp_path),
    ]
    parent = psutil.Popen([*COMMAND, *arguments], cwd=system.ROOT, stderr=subprocess.DEVNULL)
    side = wait_for(lambda: [child for child in parent.children() if "benchmarks.side" in command_of(child)])[0]
    parent.terminate()
    assert parent.wait(30) == 143
    wait_for(lambda: not command_of(side))
