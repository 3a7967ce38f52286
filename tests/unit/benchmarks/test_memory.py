# SPDX-License-Identifier: AGPL-3.0-or-later
"""memory: steps under a limit."""

from __future__ import annotations

import pytest

from benchmarks import harness
from tests.unit.benchmarks.programs import job


@pytest.mark.parametrize("row", ["mem_half_n_b256", "fits_s_b256_16g"])
def test_steps_under_a_limit_are_timed_and_their_plan_is_noted(tmp_path, global_settings, row):
    program = harness.discover()["memory"]
    small = {"device": "cpu", "imgsz": 64, "batch_divisor": 128, "warmup_steps": 1, "steps": 1}
    measured = program.run_side(job("memory", "ours", (row,), tmp_path, **small))
    assert measured.values[row] > 0
    assert "no plan on cpu" in measured.notes[row]
    assert list(measured.itself) == ([row] if row == "mem_half_n_b256" else [])
