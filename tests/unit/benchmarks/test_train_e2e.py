# SPDX-License-Identifier: AGPL-3.0-or-later
"""train_e2e: a training from files, by images a second."""

from __future__ import annotations

import os

import pytest

from benchmarks import harness
from tests.unit.benchmarks.programs import job


@pytest.mark.timeout(900)
@pytest.mark.parametrize("side", ["stock", "ours"])
def test_training_from_files_gives_images_a_second(tmp_path, global_settings, monkeypatch, side):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = harness.discover()["train_e2e"]
    small = {"device": "cpu", "pictures": 8, "epochs": 2, "imgsz": 32, "batch_divisor": 64, "workers": 1}
    asked = job("train_e2e", side, ("train_e2e_n_2cores",), tmp_path, **small)
    program.prepare(asked.parameters, tmp_path)
    before = os.sched_getaffinity(0)
    measured = program.run_side(asked)
    assert measured.values["train_e2e_n_2cores"] > 0
    assert "1 further epochs" in measured.notes["train_e2e_n_2cores"]
    assert measured.declared["cache"] is False
    assert os.sched_getaffinity(0) == before
