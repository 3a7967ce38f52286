# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pictures of docs/performance.md: drawn from the newest records, all of them and no others."""

from __future__ import annotations

import json
import re

import pytest

import benchmarks.__main__ as command
from benchmarks import plots, record

ROWS = [
    record.row("fast", "ms", "lower", {"stock": [90.0, 94.0], "ours": [30.0, 32.0]}),
    record.row("slow", "s", "lower", {"stock": [8.0], "ours": [12.0]}),
    record.row("fits", "1 = ran", "higher", {"stock": [0.0], "ours": [1.0]}),
    record.row("alone", "share", "higher", {"ours": [0.5]}),
]


def content(date: str = "2026-11-22T10:00:00Z", rows: list | None = None, changed: tuple[str, ...] = ()) -> dict:
    return {
        "benchmark": "speed",
        "date": date,
        "device": "gpu",
        "commit": "0123456789abcdef",
        "parameters": {"changed": [*changed]},
        "rows": ROWS if rows is None else rows,
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout with a page and a folder of records."""
    monkeypatch.setattr(plots, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(plots, "PICTURES", tmp_path / "plots")
    monkeypatch.setattr(plots, "path_of", lambda content: plots.RECORDS / "day-gpu/speed.json")
    plots.PAGE.write_text(f"before\n{plots.BEGIN}\nold\n{plots.END}\nafter\n")
    return tmp_path


def test_the_page_shows_the_records_that_are_there():
    contents = record.load_all()
    text = plots.PAGE.read_text(encoding="utf-8")
    advice = "run `python -m benchmarks report --plots`"
    assert text == plots.page(text, contents), advice
    wanted = {plots.name_of(one): one for one in record.newest(contents) if plots.compares(one)}
    assert {file.name for file in plots.PICTURES.iterdir()} == set(wanted), advice
    assert all(plots.is_of(plots.PICTURES / name, one) for name, one in wanted.items()), advice
    named = re.findall(r"\]\((plots/|\.\./benchmarks/records/)([^)]+)\)", text)
    folders = {"plots/": plots.PICTURES, "../benchmarks/records/": record.RECORDS}
    assert named
    assert all((folders[folder] / name).is_file() for folder, name in named)


def test_a_picture_has_each_row_and_is_the_same_every_time(tmp_path):
    for name in ("one.svg", "two.svg"):
        plots.draw(content(), tmp_path / name)
    first = (tmp_path / "one.svg").read_text()
    assert first == (tmp_path / "two.svg").read_text()
    assert all(f"<!-- {row['name']} -->" in first for row in ROWS)
    assert "<!-- 2.97x   92 \u2192 31 ms -->" in first
    assert "<!-- no value \u2192 0.5 share -->" in first
    assert "<!-- 0 \u2192 1 (1 = ran) -->" in first
    assert "<!-- speed: gpu, 2026-11-22, 1 to 2 runs of each side -->" in first


def test_a_new_record_is_drawn_and_what_is_there_is_left(place):
    assert plots.write([content()]) == [plots.PICTURES / "speed-gpu.svg", plots.PAGE]
    assert plots.write([content()]) == []
    assert plots.write([content(), content("2026-11-23T10:00:00Z")]) == [plots.PICTURES / "speed-gpu.svg", plots.PAGE]


def test_the_command_says_what_it_wrote_and_also_that_there_was_nothing_to_draw(place, monkeypatch, capsys):
    monkeypatch.setattr(command.system, "ROOT", place)
    monkeypatch.setattr(command.record, "load_all", lambda: [content()])
    monkeypatch.setattr(command.readme, "write", lambda contents: [])
    assert command.main(["report", "--plots"]) == 0
    assert capsys.readouterr().out == "wrote plots/speed-gpu.svg\nwrote performance.md\n"
    assert command.main(["report", "--plots"]) == 0
    assert "nothing to draw" in capsys.readouterr().out


def test_a_picture_without_a_record_goes(place):
    plots.write([content()])
    plots.write([])
    assert list(plots.PICTURES.iterdir()) == []
    assert plots.PAGE.read_text() == f"before\n{plots.BEGIN}\n\n{plots.END}\nafter\n"


def test_what_was_not_as_the_claim_says_stands_beside_the_picture(place):
    assert "not as the claim says (unfinished)" in plots.block([content(changed=("unfinished",))])


def test_what_differed_failed_or_was_extrapolated_stands_below_the_picture(place):
    note = "of one step; stock extrapolated from a sample; stock FAILED: out of memory; DIFFERS amp: stock 1, ours 0; lr: stock 1, ours 2"
    rows = [ROWS[0] | {"note": note}, ROWS[1] | {"note": "; DIFFERS amp: stock 1, ours 0; lr: stock 1, ours 2"}]
    lines = plots.block([content(rows=rows)]).splitlines()
    assert lines[-3:] == [
        "- `fast`: stock extrapolated from a sample",
        "- `fast`: stock FAILED: out of memory",
        "- `fast`, `slow`: DIFFERS amp: stock 1, ours 0; lr: stock 1, ours 2",
    ]


def test_a_record_that_compares_nothing_is_not_drawn(place):
    assert plots.block([content(rows=ROWS[3:])]) == ""


def test_a_page_without_marks_is_an_error():
    with pytest.raises(ValueError, match="has no line"):
        plots.page("text", [])


def test_where_there_is_no_page_it_says_where_there_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "PAGE", tmp_path / "performance.md")
    assert command.main(["report", "--plots"]) == 2
    assert "run it in a clone" in capsys.readouterr().err


def test_the_file_of_a_record_is_found_by_what_is_in_it(tmp_path):
    for name, date in (("speed.json", "2026-11-22"), ("speed-2.json", "2026-11-23")):
        (tmp_path / "day-gpu").mkdir(exist_ok=True)
        (tmp_path / "day-gpu" / name).write_text(json.dumps(content(date)))
    assert plots.path_of(content("2026-11-23"), tmp_path).name == "speed-2.json"
    with pytest.raises(LookupError):
        plots.path_of(content("2026-11-24"), tmp_path)
