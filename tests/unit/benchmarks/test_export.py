# SPDX-License-Identifier: AGPL-3.0-or-later
"""export: both sides in ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.unit.benchmarks.programs import run


@pytest.mark.slow
def test_the_exports_of_both_sides_are_timed(tmp_path):
    small = ["--rows", "ort_cpu_n", "--set", "imgsz=64", "--set", "calls=2", "--repeats", "1"]
    (row,) = run(tmp_path, "export", *small)["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0
