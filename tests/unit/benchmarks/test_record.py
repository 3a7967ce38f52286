# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record's form, held by its JSON schema, and what is read back from a folder of records."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import record

SCHEMA = json.loads(record.SCHEMA.read_text())
DECLARED = {"dtype": "bf16", "deterministic": True, "optimizer": "SGD", "workers": 16, "cache": False, "imgsz": 640}


def content(**changes: object) -> dict:
    return {
        "benchmark": "bccd_wall",
        "date": "2026-11-22T10:00:00Z",
        "device": "nvidia-h100-80gb-hbm3",
        "command": "python -m benchmarks run bccd_wall",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"torch": "2.11.0"},
        "parameters": {"epochs": 100, "changed": []},
        "declared": {"stock": DECLARED, "ours": DECLARED},
        "rows": [record.row("bccd_wall", "s", "lower", {"stock": [205.0], "ours": [60.0]})],
        **changes,
    }


def is_valid(candidate: dict) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(candidate)


def without(key: str) -> dict:
    return {name: value for name, value in content().items() if name != key}


def with_row(**changes: object) -> dict:
    changed = copy.deepcopy(content())
    changed["rows"][0] |= changes
    return changed


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_whole_record_is_valid():
    jsonschema.validate(content(), SCHEMA)


def test_the_issues_minimal_form_is_valid():
    assert is_valid({key: value for key, value in content().items() if key not in {"parameters", "declared"}})


@pytest.mark.parametrize("key", ["benchmark", "date", "device", "command", "commit", "versions", "rows"])
def test_a_record_without_one_of_its_fields_is_refused(key):
    assert not is_valid(without(key))


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "NVIDIA H100"},
        {"device": "my_host.example"},
        {"date": "22 November"},
        {"commit": "main"},
        {"versions": {}},
        {"rows": []},
        {"hostname": "node17"},
        {"command": "./run-it"},
        {"declared": {"stock": {"dtype": "bf16"}}},
        {"declared": {"theirs": DECLARED}},
        {"parameters": {"epochs": 100}},
    ],
    ids=str,
)
def test_a_record_with_a_wrong_field_is_refused(changes):
    assert not is_valid(content(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"better": "bigger"},
        {"unit": ""},
        {"stock": 205.0},
        {"stock": ["205"]},
        {"ratio": "3.4x"},
        {"Name": "bccd"},
        {"stock": [], "note": ""},
        {"stock": [], "note": "out of memory", "ratio": 3.4},
        {"ours": [], "note": ""},
    ],
    ids=str,
)
def test_a_row_with_a_wrong_field_is_refused(changes):
    assert not is_valid(with_row(**changes))


def test_stock_may_be_empty_when_the_note_says_why():
    assert is_valid(with_row(stock=[], ratio=None, note="stock FAILED: out of memory"))


def test_a_measurement_of_code_that_differs_from_its_commit_is_valid_and_says_so():
    assert is_valid(content(commit="0123456789ab-dirty"))


def test_every_committed_record_is_valid_and_lies_where_it_says():
    for path in sorted(record.RECORDS.glob("*/*.json")):
        committed = json.loads(path.read_text())
        jsonschema.validate(committed, SCHEMA)
        assert path.parent.name == f"{committed['date'][:10]}-{committed['device']}"
        reduced = "-reduced" if set(record.changes(committed)) - {"unfinished"} else ""
        assert re.fullmatch(rf"{committed['benchmark']}{reduced}(-[2-9]\d*)?", path.stem)
        assert path.with_suffix(".log").is_file(), f"{path.name} lies without its raw log"


def test_the_ratio_says_how_many_times_better_ours_is():
    assert record.ratio("lower", [205.0], [60.0]) == pytest.approx(3.4167)
    assert record.ratio("higher", [820.0], [2460.0]) == 3.0


def test_the_ratio_is_of_medians_so_one_bad_repeat_does_not_move_it():
    assert record.ratio("lower", [10.0, 10.0, 10.0], [5.0, 5.0, 500.0]) == 2.0


@pytest.mark.parametrize(("base", "ours"), [([], [1.0]), ([1.0], []), ([0.0], [0.1])])
def test_there_is_no_ratio_to_nothing(base, ours):
    assert record.ratio("higher", base, ours) is None


positive = st.floats(min_value=1e-3, max_value=1e6)


@given(st.lists(positive, min_size=1, max_size=9), st.lists(positive, min_size=1, max_size=9))
def test_lower_and_higher_are_each_others_inverse(base, ours):
    exact = record.ratio("higher", base, ours)
    inverse = record.ratio("lower", ours, base)
    assert exact == inverse


@settings(deadline=None)  # a slow machine is no failure
@given(st.lists(positive, max_size=5), st.lists(positive, max_size=5), st.lists(positive, max_size=5), st.text())
def test_rows_made_of_any_measurement_are_valid(stock, tuned, ours, words):
    row = record.row("a_row", "ms", "lower", {"stock": stock, "tuned": tuned, "ours": ours}, note=words or "why")
    jsonschema.validate(content(rows=[row]), SCHEMA)


def place(folder: Path, reduced: bool = False, **changes: object) -> Path:
    one = content(**changes)
    return record.claim(folder, one["date"], one["device"], one["benchmark"], reduced)


def test_a_record_lies_in_a_folder_of_its_day_and_device_with_its_log(tmp_path):
    path = place(tmp_path)
    record.write(path, content())
    assert path.relative_to(tmp_path).as_posix() == "2026-11-22-nvidia-h100-80gb-hbm3/bccd_wall.json"
    assert json.loads(path.read_text()) == content()
    assert sorted(left.name for left in path.parent.iterdir()) == ["bccd_wall.json", "bccd_wall.log"]


def test_a_place_is_given_once_even_before_anything_is_written_there(tmp_path):
    names = [place(tmp_path, reduced).name for reduced in (False, False, True, True, False)]
    assert names == [
        "bccd_wall.json",
        "bccd_wall-2.json",
        "bccd_wall-reduced.json",
        "bccd_wall-reduced-2.json",
        "bccd_wall-3.json",
    ]


def test_a_record_whose_log_was_removed_still_holds_its_place(tmp_path):
    first = place(tmp_path)
    record.write(first, content())
    first.with_suffix(".log").unlink()
    assert place(tmp_path).name == "bccd_wall-2.json"


def test_the_newest_record_of_each_benchmark_and_device_counts(tmp_path):
    for date, device in [("2026-11-20", "cpu-2-cores"), ("2026-11-22", "cpu-2-cores"), ("2026-11-21", "nvidia-h100")]:
        changes = {"date": f"{date}T10:00:00Z", "device": device}
        record.write(place(tmp_path, **changes), content(**changes))
    newest = record.newest(record.load_all(tmp_path))
    assert [(one["device"], one["date"][:10]) for one in newest] == [
        ("cpu-2-cores", "2026-11-22"),
        ("nvidia-h100", "2026-11-21"),
    ]


@pytest.mark.parametrize("changed", ["warmup", "unfinished"])
def test_a_newer_run_that_is_not_the_claims_does_not_hide_the_full_one(changed):
    full, smoke = content(), content(date="2026-11-23T10:00:00Z", parameters={changed: False, "changed": [changed]})
    assert record.newest([full, smoke]) == [full]
    assert record.newest([smoke]) == [smoke]
