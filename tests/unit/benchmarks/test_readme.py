# SPDX-License-Identifier: AGPL-3.0-or-later
"""README's table of measurements says what the records say: each of its numbers is that row's and that side's, rounded."""

from __future__ import annotations

import re
from statistics import median
from typing import Any, NamedTuple

import pytest

from benchmarks import record, system

HEADER = "| record | what | stock | ours |"
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
IN_WORDS = {"out of memory": 0.0, "run": 1.0}
"""What a cell says of a row that is 1 for "it ran"."""


class Line(NamedTuple):
    """Of README's table."""

    record: str
    stock: str
    ours: str


class Source(NamedTuple):
    """Where a number of a cell comes from."""

    row: str
    in_note: str = ""
    """A pattern with one group; without it the number is the side's median."""
    side: str = ""
    """Where it is not that of the cell."""


def both(*rows: str) -> tuple[list[Source], list[Source]]:
    """Each side's own values of these rows."""
    return [Source(row) for row in rows], [Source(row) for row in rows]


def notes(row: str, *patterns: str) -> list[Source]:
    return [Source(row, pattern) for pattern in patterns]


SOURCES: list[tuple[str, tuple[list[Source], list[Source]]]] = [
    ("attention", both("attn_fwdbwd_n_b256_bf16")),
    ("attention", both("attn_fwd_n_b256_bf16")),
    ("memory", both("mem_free_n_b256")),
    (
        "memory",
        (
            notes("mem_free_n_b256", r"stock: ([\d.]+) ms a step"),
            [
                *notes("mem_free_n_b256", r"ours: ([\d.]+) ms a step.*every input rebuilt"),
                Source("mem_half_n_b256", side="stock"),
            ],
        ),
    ),
    ("memory", both("mem_free_s_b64")),
    ("memory", both("fits_s_b256", "fits_x_b128", "fits_l_1280_b64")),
    ("memory", both("fits_s_b256_24g", "fits_s_b256_16g")),
    ("memory", ([Source("mem_half_n_b256")], [Source("mem_half_n_b256"), Source("mem_third_n_b256")])),
    (
        "oom_faults",
        ([], notes("oom_faults", r"(\d+) of \d+ failures happened and", r"\d+ of (\d+) failures happened and")),
    ),
    ("train_step", both("train_step_n_b64")),
    ("train_step", both("train_step_n_b256")),
    ("train_e2e", both("train_e2e_n_b256")),
    (
        "train_e2e",
        (
            notes("train_e2e_n_b256", r"stock: first epoch (\d+)"),
            notes("train_e2e_n_b256", r"ours: first epoch (\d+)"),
        ),
    ),
    ("bccd_wall", both("bccd_map50_95")),
    ("bccd_wall", (notes("bccd_wall", r"stock: peak ([\d.]+)"), notes("bccd_wall", r"ours: peak ([\d.]+)"))),
    ("bccd_wall", both("bccd_wall")),
]
"""For each line of the table, in its order: the record, and what its two cells come from."""


def table() -> list[Line]:
    lines = (system.ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines[lines.index(HEADER) + 2 :]:
        if not line.startswith("|"):
            break
        name, what, stock, ours = (cell.strip() for cell in line.strip("|").split("|"))
        del what  # batch sizes and the like
        found.append(Line(name.strip("`"), stock, ours))
    return found


def newest(name: str) -> dict[str, dict[str, Any]]:
    """The rows, by name, of the latest record of a benchmark, on whatever machine."""
    contents = [content for content in record.load_all() if content["benchmark"] == name]
    latest = max(contents, key=lambda content: content["date"])
    return {row["name"]: row for row in latest["rows"]}


def numbers(rows: dict[str, dict[str, Any]], side: str, sources: list[Source]) -> list[float]:
    """What a cell should say."""
    found = []
    for source in sources:
        row = rows[source.row]
        matches = [float(text) for text in re.findall(source.in_note, row["note"])] if source.in_note else None
        assert matches is None or len(matches) == 1, (
            f"{source.in_note} is {len(matches)} times in the note of {source.row}"
        )
        found.append(median(row[source.side or side]) if matches is None else matches[0])
    return found


def agrees(cell: str, expected: list[float]) -> bool:
    """Whether a cell says these numbers, in their order and with as many decimals as it likes, or in words one answer for all of them."""
    if cell == "-":
        return not expected
    if cell in IN_WORDS:
        return bool(expected) and set(expected) == {IN_WORDS[cell]}
    shown = NUMBER.findall(cell)
    return len(shown) == len(expected) and all(map(is_rounded_from, shown, expected))


def is_rounded_from(shown: str, number: float) -> bool:
    """Whether `shown` is `number` with as many decimals as it has."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown) - number) <= 0.5 * 10**-decimals + 1e-9


def test_each_line_of_the_table_has_its_sources() -> None:
    assert [line.record for line in table()] == [name for name, _ in SOURCES]


@pytest.mark.parametrize(
    ("line", "of"), list(zip(table(), SOURCES, strict=False)), ids=[line.record for line in table()]
)
def test_a_line_of_the_table_is_what_its_record_says(
    line: Line, of: tuple[str, tuple[list[Source], list[Source]]]
) -> None:
    name, (stock, ours) = of
    rows = newest(name)
    for cell, side, sources in ((line.stock, "stock", stock), (line.ours, "ours", ours)):
        expected = numbers(rows, side, sources)
        assert agrees(cell, expected), f"{name}, {side}: the table says {cell!r}, the record {expected}"


@pytest.mark.parametrize(
    ("cell", "expected", "said"),
    [
        ("0.98 / 0.73", [0.979, 0.728], True),
        ("0.73 / 0.98", [0.979, 0.728], False),
        ("0.98", [0.979, 0.728], False),
        ("117 / 105 ms", [116.6, 105.3], True),
        ("out of memory", [0.0, 0.0], True),
        ("out of memory", [0.0, 1.0], False),
        ("run", [], False),
        ("-", [], True),
        ("-", [1.0], False),
    ],
)
def test_a_wrong_cell_is_told_from_a_right_one(cell: str, expected: list[float], said: bool) -> None:
    assert agrees(cell, expected) is said


@pytest.mark.parametrize(
    ("shown", "number", "said"), [("0.94", 0.9372, True), ("148", 148.5, True), ("20.0", 20.2, False)]
)
def test_rounding_is_told_from_another_number(shown: str, number: float, said: bool) -> None:
    assert is_rounded_from(shown, number) is said
