# SPDX-License-Identifier: AGPL-3.0-or-later
"""deploy: from a process's start to boxes by an exported file, the same boxes on both sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import BenchmarkError
from tests.unit.benchmarks.programs import job, run


def test_both_sides_find_the_same_boxes_in_the_same_file(tmp_path: Path) -> None:
    small = ("--set", "imgsz=160", "--set", "starts=1", "--repeats", "1")
    (row,) = run(tmp_path / "records", "deploy", *small)["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0
    stock, ours = re.findall(r"(?:stock|ours): (\d+) boxes", row["note"])
    assert stock == ours != "0"


def test_stocks_boxes_are_counted_from_its_line(tmp_path: Path) -> None:
    boxes = harness.discover()["deploy"].run_side.__globals__["_boxes"]
    line = "image 1/1 /a/12 b, c/picture.png: 640x640 7 persons, 12 dogs, 1 3, 42.0ms"
    assert boxes("stock", f"Loading\n{line}\nSpeed: 1.0ms", tmp_path) == 20
    assert boxes("stock", "image 1/1 /a/picture.png: 640x640 (no detections), 42.0ms", tmp_path) == 0


def test_a_process_that_fails_is_a_reason_and_not_a_time(tmp_path: Path) -> None:
    side = job("deploy", "ours", ("deploy_first_answer",), tmp_path, starts=1)
    with pytest.raises(BenchmarkError, match="there is no such file or folder"):
        harness.discover()["deploy"].run_side(side)
