# SPDX-License-Identifier: AGPL-3.0-or-later
"""attention: one row on the CPU."""

from __future__ import annotations

from benchmarks import harness
from tests.unit.benchmarks.programs import job, run


def test_one_attention_row_is_measured_on_both_sides_and_lists_the_backends(tmp_path):
    small = ["--set", "device=cpu", "--set", "batch_divisor=64", "--set", "budget_ms=1", "--repeats", "1"]
    content = run(tmp_path / "records", "attention", "--rows", "attn_fwd_n_b1_bf16", *small)
    (row,) = content["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0
    assert "us per module, p4 + p5: plain " in row["note"]


def test_attention_trains_too(tmp_path):
    program = harness.discover()["attention"]
    row = "attn_fwdbwd_n_b1_bf16"
    measured = program.run_side(job("attention", "stock", (row,), tmp_path, device="cpu", budget_ms=1.0))
    assert measured.values[row] > 0
