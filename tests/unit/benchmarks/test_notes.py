# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows are named after the claim's sizes; what a run with `--set` really had stands in the note."""

from __future__ import annotations

import re

import pytest

from benchmarks import harness

KNOWN = harness.discover()
CPU = {"device": "cpu"}
CASES = [
    (
        "train_step",
        "train_step_s_1280_b32",
        {"imgsz": 64, "batch_divisor": 32},
        "yolov12s, batch 32, 1280 px",
        "yolov12s, batch 1, 128 px",
    ),
    (
        "train_e2e",
        "train_e2e_n_b256",
        {"pictures": 64, "imgsz": 64, "batch_divisor": 64},
        "batch 256, steady images a second, 10,000 JPEG files at 640 px",
        "batch 4, steady images a second, 64 JPEG files at 64 px",
    ),
    (
        "memory",
        "mem_free_n_b256",
        {"imgsz": 64, "batch_divisor": 128},
        "peak reserved, yolov12n, batch 256, 640 px",
        "yolov12n, batch 2, 64 px",
    ),
    ("memory", "mem_half_n_b256", CPU, "at 0.5 of 48.1 GiB, yolov12n, batch 256", "without a limit, since"),
    ("memory", "fits_s_b256_24g", CPU | {"steps": 1}, "20 steps, .* in 24 GB of a card", "9 steps, .* on the CPU"),
    ("attention", "attn_fwd_n_b256_bf16", {"batch_divisor": 64}, "batch 256", "batch 4"),
    (
        "scale",
        "scale4_m",
        {"batch_divisor": 16, "imgsz": 64},
        "32 images of 640 px on each of 4 GPUs",
        "2 images of 64",
    ),
    ("scale", "scale4_m", CPU, "on each of 4 GPUs", "on each of 4 processes on the CPU"),
    (
        "val",
        "val_5000_n",
        {"images": 32, "imgsz": 64, "batch": 8},
        "5,000 pictures of 640 px, batch 64",
        "32 pictures of 64 px, batch 8",
    ),
    ("infer", "infer_n_b1", CPU | {"imgsz": 64}, "one picture of 640 px on the GPU", "one picture of 64 px on the CPU"),
    ("infer", "infer_s_b32", {"batch_divisor": 4}, "alone, 32 pictures of 640 px", "alone, 8 pictures of 640 px"),
    ("infer", "predict_files_n", {"files": 6}, "2,000 JPEG files", "6 JPEG files"),
    ("infer", "val_memory_n_b128", {"batch_divisor": 64}, "batch=128", "batch=2"),
    ("map_paired", "map_paired", {"sets": "bccd"}, "over seeds and both data sets", "over seeds and bccd alone"),
    ("map_budget", "map_budget_limited", CPU, "under 0.35 of stock's 7.1 GiB", "without a limit too"),
]


@pytest.mark.parametrize(("program", "name", "changes", "claimed", "run"), CASES)
def test_the_note_tells_the_size_that_was_run(program, name, changes, claimed, run):
    benchmark = KNOWN[program]
    (row,) = (row for row in benchmark.rows if row.name == name)
    full, smaller = row.note_of(benchmark.parameters), row.note_of({**benchmark.parameters, **changes})
    assert re.search(claimed, full)
    assert re.search(run, smaller)
    assert not re.search(claimed, smaller)


@pytest.mark.parametrize("program", sorted(name for name, one in KNOWN.items() if "batch_divisor" in one.parameters))
def test_no_note_names_a_batch_that_was_divided(program):
    parameters = {**KNOWN[program].parameters, "batch_divisor": 256, "imgsz": 64}
    notes = {row.name: row.note_of(parameters) for row in KNOWN[program].rows}
    assert {
        name: note for name, note in notes.items() if re.search(r"batch.\d\d|\d\d (images|pictures)|640 px", note)
    } == {}
