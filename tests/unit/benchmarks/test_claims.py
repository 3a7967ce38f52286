# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/claims.md: every number of ours stands in the record that is named beside it, and nothing else there looks like one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs/claims.md"
VERDICTS = ("Measured: ", "Not reproduced: ", "Not measured", "Nothing to measure: ")
CIRCUMSTANCES = r"`[^`]*`|\]\([^)]*\)|\bbatch \d+|\d+ px|\b[A-Z]+\d+\b|\bbf16|\d+ GB are left|(?i:yolov12)\w?"
"""What may have digits and is no measurement."""

CLAIMS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| the articles")
]


def rows_of(record: str) -> list[dict]:
    """The rows that a record's cell names."""
    name, file = re.fullmatch(r"\[(.+)\]\(\.\./(.+)\)", record).groups()
    content = json.loads((PAGE.parents[1] / file).read_text(encoding="utf-8"))
    benchmark, *rows = re.findall(r"`([^`]+)`", name)
    assert content["benchmark"] == benchmark
    by_name = {row["name"]: row for row in content["rows"]}
    return [by_name[name] for name in rows]


def medians(rows: list[dict], *sides: str) -> list[float]:
    return [median(row[side]) for row in rows for side in sides if row[side]]


def values_in(rows: list[dict]) -> list[float]:
    """Every number of the rows: medians, and what the notes say."""
    notes = [float(number) for row in rows for number in re.findall(r"\d+(?:\.\d+)?", row["note"])]
    return medians(rows, "stock", "ours") + notes


def of_sides(text: str) -> list[tuple[str, str]]:
    """(number, side) wherever a number is said to be of one, with a unit between them or none."""
    return re.findall(r"\*\*([\d.]+)\*\*(?: \w+)? (stock|ours)\b", text)


def on_the_wrong_side(text: str, rows: list[dict]) -> list[tuple[str, str]]:
    return [(number, side) for number, side in of_sides(text) if not stands_in(number, medians(rows, side))]


def stands_in(shown: str, values: list[float]) -> bool:
    """Whether one of the values is shown so, when it is rounded to as many digits."""
    decimals = len(shown.partition(".")[2])
    return any(f"{value:.{decimals}f}" == shown for value in values)


def test_there_are_claims():
    assert len(CLAIMS) >= 15
    assert all(len(claim) == 3 for claim in CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[0][:40])
def test_a_claim_has_a_verdict_and_its_numbers_stand_in_the_record(claim):
    _, here, record = claim
    assert here.startswith(VERDICTS)
    numbers = re.findall(r"\*\*([\d.]+)\*\*", here)
    assert bool(numbers) == (record != "-"), "a record is named where there are numbers, and only there"
    if not numbers:
        return
    rows = rows_of(record)
    wrong = [number for number in numbers if not stands_in(number, values_in(rows))]
    assert not wrong, f"not in the record: {wrong}"
    assert not on_the_wrong_side(here, rows)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[0][:40])
def test_no_number_of_ours_is_left_unchecked(claim):
    rest = re.sub(CIRCUMSTANCES, "", re.sub(r"\*\*[\d.]+\*\*", "", claim[1]))
    assert not re.search(r"\d", rest), rest


def test_swapped_sides_are_noticed():
    rows = [{"stock": [53.0], "ours": [20.0], "note": ""}, {"stock": [13.0], "ours": [2.95], "note": ""}]
    assert on_the_wrong_side("**53.0** GiB stock, **20.0** GiB ours; **2.95** ours", rows) == []
    assert on_the_wrong_side("**20.0** GiB stock, **53.0** GiB ours", rows) == [("20.0", "stock"), ("53.0", "ours")]
    assert len([pair for claim in CLAIMS for pair in of_sides(claim[1])]) >= 8


def test_a_number_that_is_not_in_the_record_is_noticed():
    assert stands_in("5.72", [5.719362453])
    assert not stands_in("5.73", [5.719362453])
    assert not stands_in("2", [0.6, 1.4])
