# SPDX-License-Identifier: AGPL-3.0-or-later
"""augment: both sides on the CPU."""

from __future__ import annotations

from tests.unit.benchmarks.programs import run


def test_augmentation_is_measured_on_both_sides(tmp_path):
    small = {"device": "cpu", "imgsz": 32, "batch": 2, "pictures": 4, "steps": 1}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "augment", *settings, "--repeats", "1")
    assert len(content["rows"]) == 2
    assert all(row[side][0] > 0 for row in content["rows"] for side in ("stock", "ours"))
