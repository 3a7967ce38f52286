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


def values_in(record: str) -> list[float]:
    """Every number of the rows that a record's cell names: medians, ratios, and what the notes say."""
    name, file = re.fullmatch(r"\[(.+)\]\(\.\./(.+)\)", record).groups()
    content = json.loads((PAGE.parents[1] / file).read_text(encoding="utf-8"))
    benchmark, *rows = re.findall(r"`([^`]+)`", name)
    assert content["benchmark"] == benchmark
    by_name = {row["name"]: row for row in content["rows"]}
    found = []
    for row in (by_name[name] for name in rows):
        found += [median(row[side]) for side in ("stock", "ours") if row[side]]
        found += [float(number) for number in re.findall(r"\d+(?:\.\d+)?", row["note"])]
    return found


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
    wrong = [number for number in numbers if not stands_in(number, values_in(record))]
    assert not wrong, f"not in the record: {wrong}"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[0][:40])
def test_no_number_of_ours_is_left_unchecked(claim):
    rest = re.sub(CIRCUMSTANCES, "", re.sub(r"\*\*[\d.]+\*\*", "", claim[1]))
    assert not re.search(r"\d", rest), rest


def test_a_number_that_is_not_in_the_record_is_noticed():
    assert stands_in("5.72", [5.719362453])
    assert not stands_in("5.73", [5.719362453])
    assert not stands_in("2", [0.6, 1.4])
