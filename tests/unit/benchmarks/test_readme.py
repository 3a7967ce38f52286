# SPDX-License-Identifier: AGPL-3.0-or-later
"""README's table of measurements is what the newest records say, and each of its numbers is that row's and that side's, rounded."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks import plots, readme, record
from benchmarks.errors import BenchmarkError
from benchmarks.readme import Cell, Line, Number

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
IN_WORDS = {"out of memory": 0.0, "run": 1.0}
CONTENTS = record.load_all()


def shown() -> list[list[str]]:
    """The table's lines, in cells."""
    text = readme.PAGE.read_text(encoding="utf-8").partition(readme.BEGIN)[2].partition(readme.END)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]


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


def test_the_table_is_the_newest_records() -> None:
    text = readme.PAGE.read_text(encoding="utf-8")
    assert readme.page(text, CONTENTS) == text, "run `python -m benchmarks report --plots`"


@pytest.mark.parametrize(
    ("cells", "line"), list(zip(shown(), readme.LINES, strict=True)), ids=[line.record for line in readme.LINES]
)
def test_a_line_of_the_table_is_what_its_record_says(cells: list[str], line: Line) -> None:
    """Without the code that writes them: what stands there is read, and compared as numbers."""
    rows = readme.latest(CONTENTS, line.record)
    for said, side, cell in ((cells[2], "stock", line.stock), (cells[3], "ours", line.ours)):
        expected = [readme.value(rows, side, number) for number in cell.numbers]
        assert agrees(said, expected), f"{line.record}, {side}: the table says {said!r}, the record {expected}"


ROWS = {
    "time": record.row("time", "ms", "lower", {"stock": [91.0, 93.0], "ours": [30.04]}, note="ours: peak 4.79 GiB"),
    "fits": record.row("fits", "1 = ran", "higher", {"stock": [0.0], "ours": [1.0]}),
    "too": record.row("too", "1 = ran", "higher", {"stock": [0.0], "ours": [0.0]}),
}


@pytest.mark.parametrize(
    ("cell", "side", "text"),
    [
        (Cell("{} ms", (Number("time"),)), "stock", "92 ms"),
        (Cell("{} ms", (Number("time"),)), "ours", "30.0 ms"),
        (Cell("{} / {} ms", (Number("time"), Number("time", side="stock"))), "ours", "30.0 / 92 ms"),
        (Cell("{} GiB", (Number("time", r"peak ([\d.]+)"),)), "ours", "4.79 GiB"),
        (Cell("", (Number("fits"), Number("too"))), "stock", "out of memory"),
        (Cell("", (Number("fits"),)), "ours", "run"),
        (readme.NOTHING, "stock", "-"),
    ],
)
def test_a_cell_says_its_numbers(cell: Cell, side: str, text: str) -> None:
    assert readme.said(cell, ROWS, side) == text


@pytest.mark.parametrize(
    ("cell", "side", "words"),
    [
        (Cell("{}", (Number("gone"),)), "ours", "row gone"),
        (Cell("{}", (Number("time"),)), "tuned", "has 0 of tuned"),
        (Cell("{}", (Number("time", r"stock: peak ([\d.]+)"),)), "stock", "has 0 of stock: peak"),
        (Cell("{}", (Number("time", r"(\d)"),)), "ours", "has 3 of"),
        (Cell("", (Number("fits"), Number("too"))), "ours", "fits, too did not all end alike"),
    ],
)
def test_a_cell_whose_number_is_not_in_the_record_is_refused(cell: Cell, side: str, words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        readme.said(cell, ROWS, side)


def dated(day: int, **rows: tuple[list[float], list[float]]) -> dict[str, Any]:
    """A record with the values of stock and ours in each row."""
    of_rows = [{"name": name, "stock": stock, "ours": ours} for name, (stock, ours) in rows.items()]
    return {"benchmark": "speed", "date": f"2026-11-{day}T10:00:00Z", "rows": of_rows}


def test_of_each_row_the_newest_record_counts_that_has_the_sides_and_one_must_be_there() -> None:
    old = dated(22, a=([9.0], [1.0]), b=([9.0], [1.0]), alone=([], [1.0]))
    new = dated(23, a=([9.0], [2.0]), c=([9.0], [2.0]), alone=([], [2.0]))
    cut_off, ours_only = dated(24, a=([9.0], []), b=([9.0], [])), dated(25, a=([], [3.0]))
    found = readme.latest([new, ours_only, cut_off, old], "speed")
    assert {name: row["ours"] for name, row in found.items()} == {"a": [2.0], "b": [1.0], "c": [2.0], "alone": [2.0]}
    with pytest.raises(BenchmarkError, match="no record of other"):
        readme.latest([new, old], "other")


def test_numbers_beside_each_other_are_of_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = dated(22, a=([9.0], [1.0]), b=([9.0], [1.0])), dated(23, a=([9.0], [2.0]))
    monkeypatch.setattr(readme, "LINES", (readme.both("speed", "both", "{} / {}", "a", "b"),))
    assert "| 9 / 9 | 1 / 1 |" in readme.table([old])
    with pytest.raises(BenchmarkError, match=r"'both' .* 2026-11-22T10:00:00Z and 2026-11-23T10:00:00Z"):
        readme.table([old, new])


def test_the_command_writes_the_table_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(readme, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(command.system, "ROOT", tmp_path)
    monkeypatch.setattr(plots, "write", lambda contents: [])
    readme.PAGE.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    assert command.main(["report", "--plots"]) == 0
    assert capsys.readouterr().out == "wrote README.md\n"
    assert readme.PAGE.read_text().startswith(f"before\n{readme.BEGIN}\n{readme.HEADER}\n| `attention` | ")
    assert command.main(["report", "--plots"]) == 0
    assert "nothing to draw" in capsys.readouterr().out
    readme.PAGE.write_text("no marks")
    with pytest.raises(ValueError, match="has no line"):
        readme.write(CONTENTS)


@pytest.mark.parametrize(
    ("sentence", "name", "values"),
    [
        (
            r"files at ([\d,]+) images a second where stock did ([\d,]+),",
            "train_e2e",
            [("train_e2e_n_b256", "ours"), ("train_e2e_n_b256", "stock")],
        ),
        (
            r"^([\d.]+) s instead of ([\d.]+), to mAP50-95 of ([\d.]+) and ([\d.]+)\.",
            "bccd_wall",
            [("bccd_wall", "ours"), ("bccd_wall", "stock"), ("bccd_map50_95", "ours"), ("bccd_map50_95", "stock")],
        ),
        (
            r"with batch 256 takes ([\d.]+) ms instead of ([\d.]+), and",
            "train_step",
            [("train_step_n_b256", "ours"), ("train_step_n_b256", "stock")],
        ),
        (
            r"boxes on the host after ([\d.]+) ms instead of ([\d.]+):",
            "infer",
            [("frame_to_boxes_n", "ours"), ("frame_to_boxes_n", "stock")],
        ),
    ],
)
def test_the_sentences_above_the_table_say_what_its_records_say(
    sentence: str, name: str, values: list[tuple[str, str]]
) -> None:
    (shown,) = re.findall(sentence, readme.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = readme.latest(CONTENTS, name)
    for text, (row, side) in zip(shown, values, strict=True):
        assert is_rounded_from(text.replace(",", ""), readme.value(rows, side, Number(row)))


H200 = record.RECORDS / "2026-11-29-nvidia-h200"


@pytest.mark.parametrize(
    ("sentence", "file", "values"),
    [
        (
            r"of six seeds ([\d.]+) and ([\d.]+);",
            "map_budget-reduced.json",
            [("map_budget_limited", "ours"), ("map_budget_unlimited", "ours")],
        ),
        (
            r"of three seeds, some hours earlier, ([\d.]+) and ([\d.]+)$",
            "map_budget.json",
            [("map_budget_limited", "ours"), ("map_budget_unlimited", "ours")],
        ),
    ],
)
def test_what_a_sentence_below_the_table_says_is_in_its_record(
    sentence: str, file: str, values: list[tuple[str, str]]
) -> None:
    (shown,) = re.findall(sentence, readme.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = {row["name"]: row for row in json.loads((H200 / file).read_text(encoding="utf-8"))["rows"]}
    for text, (row, side) in zip(shown, values, strict=True):
        assert is_rounded_from(text.replace(",", ""), rows[row][side][0])


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
