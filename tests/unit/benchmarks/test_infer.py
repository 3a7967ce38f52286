# SPDX-License-Identifier: AGPL-3.0-or-later
"""infer: answers on all sides."""

from __future__ import annotations

import re

import pytest

from benchmarks import harness
from tests.unit.benchmarks.programs import job, run


def test_a_picture_on_the_host_becomes_boxes_on_the_host(tmp_path):
    small = {"device": "cpu", "imgsz": 64, "calls": 2, "warmup_calls": 1}
    measured = harness.discover()["infer"].run_side(job("infer", "ours", ("frame_to_boxes_n",), tmp_path, **small))
    assert measured.values["frame_to_boxes_n"] > 0
    assert re.fullmatch(r"p90 [\d.]+, p99 [\d.]+ ms of 2 calls; [1-9]\d* boxes", measured.notes["frame_to_boxes_n"])


@pytest.mark.slow  # two networks are made for each of three processes
@pytest.mark.timeout(900)
def test_answers_are_timed_on_all_sides_and_all_find_the_same(tmp_path):
    small = {
        "device": "cpu",
        "imgsz": 64,
        "files": 3,
        "val_images": 3,
        "calls": 3,
        "warmup_calls": 1,
        "batch_divisor": 64,
    }
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "infer", *settings, "--set", "compile=", "--set", "workers=0", "--repeats", "1")
    rows = {row["name"]: row for row in content["rows"]}
    assert all(len(row[side]) == 1 for row in rows.values() for side in ("stock", "tuned", "ours"))
    assert all(rows[name]["ours"][0] > 0 for name in rows if name != "val_memory_n_b128")
    assert "p99 " in rows["infer_s_b32"]["note"]
    found = re.findall(r"(\d+) boxes", rows["frame_to_boxes_n"]["note"])
    assert len(set(found)) == 1
    assert int(found[0]) > 0
