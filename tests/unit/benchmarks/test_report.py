# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the report says of a record, and above all what it does not hide."""

from __future__ import annotations

import pytest

from benchmarks import record, report

NOTE = "stock FAILED: out of memory"


def content(commit: str = "0123456789abcdef", changed: dict | None = None, **values: list[float]) -> dict:
    return {
        "benchmark": "bccd_wall",
        "date": "2026-11-22T10:00:00Z",
        "device": "nvidia-h100-80gb-hbm3",
        "command": "python -m benchmarks run bccd_wall",
        "commit": commit,
        "versions": {"torch": "2.11.0"},
        "parameters": {**(changed or {}), "changed": list(changed or ())},
        "rows": [record.row("bccd_wall", "s", "lower", values, note=NOTE)],
    }


def lines(*contents: dict, age: str = "") -> str:
    return report.render(contents, lambda commit: age)


def test_a_row_shows_median_spread_count_and_ratios():
    shown = lines(content(stock=[205, 204, 209], tuned=[120], ours=[60, 61, 59]))
    assert (
        "| bccd_wall | s, lower is better | 205 (204..209, n=3) | 120 (n=1) | 60 (59..61, n=3) | 3.42x | 2.00x |"
        in shown
    )


def test_a_side_without_values_is_a_dash_and_its_reason_follows():
    shown = lines(content(ours=[60]))
    assert "| - | - | 60 (n=1) | - | - |" in shown
    assert f"- `bccd_wall`: {NOTE}" in shown


def test_device_date_commit_and_command_stand_beside_the_numbers():
    shown = lines(content(ours=[60]))
    assert "2026-11-22, nvidia-h100-80gb-hbm3, commit 0123456789" in shown
    assert "`python -m benchmarks run bccd_wall`" in shown


def test_a_record_of_an_older_commit_is_called_that():
    assert "**made by an older commit: 3 since**" in lines(content(ours=[60]), age="made by an older commit: 3 since")


def test_a_smoke_run_is_not_mistaken_for_the_claim():
    shown = lines(content(changed={"epochs": 3, "warmup": False, "rows": ["wall", "map"]}, ours=[60]))
    assert "**not as the claim says: epochs=3, warmup=False, rows=wall+map**" in shown


def test_no_records_say_how_to_make_one():
    assert "python -m benchmarks run NAME" in lines()


@pytest.mark.parametrize(("value", "text"), [(2450.4, "2450"), (91.744, "91.74"), (0.57412, "0.5741"), (0.0, "0")])
def test_numbers_have_four_digits(value, text):
    assert report.number(value) == text
