# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbers beside a record that its rows have no place for, as a CSV: one line for each row, side and repeat (harness.Measured.details)."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.harness import Outcome

KEYS = ("row", "side", "repeat")
Line = dict[str, str | int | float]


def write(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write a whole table or none; none where no side has details."""
    lines = list(lines_of(outcomes))
    if not lines:
        return
    columns = list(dict.fromkeys([*KEYS, *(name for line in lines for name in line)]))
    aside = path.with_suffix(".csv.tmp")
    with aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    os.replace(aside, path)


def lines_of(outcomes: Iterable[Outcome]) -> Iterator[Line]:
    """In running order; a side's runs are counted from 1."""
    runs: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.measured is None:
            continue
        runs[outcome.side] += 1
        for row, numbers in outcome.measured.details.items():
            rounded = {name: round(value, 4) for name, value in numbers.items()}
            yield {"row": row, "side": outcome.side, "repeat": runs[outcome.side], **rounded}


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a table; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
