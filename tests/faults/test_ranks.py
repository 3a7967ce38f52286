# SPDX-License-Identifier: AGPL-3.0-or-later
"""One of three ranks comes to harm: the others end within the timeout and say which rank, at which step, and why; then the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import rank_faults

REPOSITORY = Path(__file__).parents[2]
IN_CI = range(5)
SCHEDULED = range(5, 25)
SAYS = {
    "kill": "is gone without a word",
    "stop": "gave no sign of life for 5 s",
    "late": "did not come for 5 s",
    "out of memory": "CUDA out of memory",
    "not finite": "the loss is nan",
    "loader": "picture 7.jpg is broken",
    "disk full": "No space left on device",
}


def run(folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.rank_faults", str(folder), json.dumps(cases)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(case: dict[str, Any], result: dict[str, Any]) -> None:
    kind, victim, step = case["kind"], case["rank"], case["step"]
    codes = {int(rank): code for rank, code in result["codes"].items()}
    if kind == "busy":
        assert codes == {0: 0, 1: 0, 2: 0}, result
        assert result["seconds"] > rank_faults.TIMEOUT_S
        return
    others = [rank for rank in codes if rank != victim]
    assert [codes[rank] for rank in others] == [75, 75], result
    for rank in others:
        first = result["said"][str(rank)].splitlines()[0]
        assert f"rank {victim}" in first, result
        assert f"step {step}" in first, result
        assert SAYS[kind] in first, result
    lost = step - result["saved"]
    assert 0 <= lost <= rank_faults.SAVE_EVERY, result
    assert set(result["resumed"].values()) == {0}, result


def check_all(seed: int, folder: Path) -> None:
    cases = rank_faults.draw(seed)
    for case, result in zip(cases, run(folder, cases), strict=True):
        check(case, result)


@pytest.mark.timeout(600)  # eight cases of which three last a timeout; a few seconds of one core
@pytest.mark.parametrize("seed", IN_CI)
def test_whatever_happens_to_a_rank_all_end_with_its_reason_and_the_run_resumes(seed: int, tmp_path: Path) -> None:
    check_all(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SCHEDULED)
def test_the_same_with_more_seeds(seed: int, tmp_path: Path) -> None:
    check_all(seed, tmp_path)
