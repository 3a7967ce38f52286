# SPDX-License-Identifier: AGPL-3.0-or-later
"""train_step: a step under the settings that it declares."""

from __future__ import annotations

import pytest

from benchmarks import harness
from tests.unit.benchmarks.programs import job


@pytest.mark.parametrize(("side", "deterministic"), [("stock", True), ("tuned", False)])
def test_a_training_step_is_measured_under_the_settings_it_declares(tmp_path, global_settings, side, deterministic):
    program = harness.discover()["train_step"]
    small = {"device": "cpu", "imgsz": 32, "batch_divisor": 32, "warmup_steps": 1, "steps": 1}
    measured = program.run_side(job("train_step", side, ("train_step_n_b64",), tmp_path, **small))
    assert measured.values["train_step_n_b64"] > 0
    assert measured.declared["deterministic"] is deterministic
    assert measured.notes["train_step_n_b64"] == "no GPU"
