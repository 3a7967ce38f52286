# SPDX-License-Identifier: AGPL-3.0-or-later
"""start: what interpreters and the command line take to begin."""

from __future__ import annotations

from benchmarks import harness
from tests.unit.benchmarks.programs import job, run


def test_the_drop_in_is_read_in_fresh_interpreters(tmp_path):
    content = run(
        tmp_path / "records", "start", "--rows", "dropin_start_ms", "--set", "light_starts=2", "--repeats", "1"
    )
    (row,) = content["rows"]
    assert row["stock"][0] > 0
    assert row["ours"][0] > 0


def test_a_start_that_fails_is_a_reason_and_not_a_time(tmp_path, monkeypatch):
    program = harness.discover()["start"]
    monkeypatch.setitem(
        program.run_side.__globals__["PROCESSES"], ("cli_help_ms", "ours"), "raise SystemExit('broken')"
    )
    measured = program.run_side(job("start", "ours", ("cli_help_ms",), tmp_path, heavy_starts=1))
    assert measured.failed == {"cli_help_ms": "broken"}
