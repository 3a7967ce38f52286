# SPDX-License-Identifier: AGPL-3.0-or-later
"""val: both sides on the same weights."""

from __future__ import annotations

import pytest

from tests.unit.benchmarks.programs import run


@pytest.mark.slow  # two whole trainings and six validations
@pytest.mark.timeout(900)
def test_both_sides_validate_the_same_weights_on_the_pictures_asked_for(tmp_path):
    small = {"images": 6, "train_images": 4, "epochs": 1, "batch": 4, "imgsz": 64, "workers": 0, "device": "cpu"}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "val", *settings, "--repeats", "1")
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["val_5000_n_map50_95"]["ours"] == rows["val_5000_n_map50_95"]["stock"]
    assert "main process busy" in rows["val_5000_n"]["note"]
