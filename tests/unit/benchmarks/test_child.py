# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run in a process of its own: what comes back from one that ends well, and from one that does not."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks import child, system

PROGRAM = """
from benchmarks import child

def work(asked):
    print("epoch 1\\repoch 2", flush=True)
    return {"half": asked["whole"] / 2}

child.answer(work)
"""


def run(folder: Path, **asked: object) -> child.Run:
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(system.ROOT)])}
    return child.finished(child.start("program", asked, folder, environment))


def test_a_run_answers_with_what_it_found_and_the_last_state_of_its_lines(tmp_path):
    assert run(tmp_path, whole=3) == child.Run(["epoch 2"], {"half": 1.5})


def test_a_run_that_fails_answers_with_its_last_line(tmp_path):
    failed = run(tmp_path, whole="x")
    assert failed.result is None
    assert failed.failure.startswith("exit code 1: TypeError: unsupported operand")
