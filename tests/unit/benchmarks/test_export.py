# SPDX-License-Identifier: AGPL-3.0-or-later
"""export: both sides in ONNX Runtime."""

from __future__ import annotations

import pytest
import torch

from benchmarks import lively
from benchmarks.programs import export
from tests.unit.benchmarks.programs import run


@pytest.mark.slow
def test_the_exports_of_both_sides_are_timed(tmp_path):
    small = ["--rows", "ort_cpu_n", "--set", "imgsz=64", "--set", "calls=2", "--repeats", "1"]
    (row,) = run(tmp_path, "export", *small)["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0


def test_what_boxes_differ_by_is_told_beside_what_the_network_rounds_by(tmp_path):
    from ultralytics import YOLO

    lively.make("yolo12n.yaml", 64, share=0.2).save(tmp_path / "lively.pt")
    with torch.inference_mode():
        answer = YOLO(str(tmp_path / "lively.pt")).model.eval()(torch.from_numpy(export._picture(64)))[0].numpy()
    answer[:, 0] += 2.0
    differs_px, rounding_px = export._from_the_network(tmp_path / "lively.pt", answer, 64)
    assert differs_px == pytest.approx(2.0, abs=0.01)
    assert 0 < rounding_px < 0.5
