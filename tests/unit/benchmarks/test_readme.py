# SPDX-License-Identifier: AGPL-3.0-or-later
"""README's table of measurements says what the records say: each of its numbers is one of the newest record of that name, rounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from statistics import median
from typing import Any

import pytest

from benchmarks import record, system

HEADER = "| record | what | stock | ours |"
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")


def table() -> list[tuple[str, str]]:
    """(record, stock and ours) of each row."""
    lines = iter((system.ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    assert HEADER in lines
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        name, what, stock, ours = (cell.strip() for cell in line.strip("|").split("|"))
        del what  # batch sizes and the like
        if name.startswith("`"):
            found.append((name.strip("`"), f"{stock} / {ours}"))
    return found


@cache
def measured(name: str) -> tuple[float, ...]:
    """Every number in the newest records of a benchmark: medians of its rows, and what their notes tell."""
    contents = [content for content in record.newest(record.load_all()) if content["benchmark"] == name]
    return tuple(number for content in contents for row in content["rows"] for number in _numbers(row))


def _numbers(row: dict[str, Any]) -> Iterator[float]:
    yield from (median(row[side]) for side in ("stock", "tuned", "ours") if row[side])
    yield from map(float, NUMBER.findall(row["note"]))


def is_rounded_from(shown: str, number: float) -> bool:
    """Whether `shown` is `number` with as many decimals as it has."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown) - number) <= 0.5 * 10**-decimals + 1e-9


def test_there_is_a_table() -> None:
    assert {"memory", "oom_faults"} <= {name for name, _ in table()}


@pytest.mark.parametrize(("name", "cells"), table())
def test_a_row_of_the_table_is_what_its_record_says(name: str, cells: str) -> None:
    assert measured(name), f"no record of {name}"
    for shown in NUMBER.findall(cells):
        assert any(is_rounded_from(shown, number) for number in measured(name)), f"{shown} is in no record of {name}"


@pytest.mark.parametrize(
    ("shown", "number", "said"), [("0.94", 0.9372, True), ("148", 148.5, True), ("20.0", 20.2, False)]
)
def test_rounding_is_told_from_another_number(shown: str, number: float, said: bool) -> None:
    assert is_rounded_from(shown, number) is said
