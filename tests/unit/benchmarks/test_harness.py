# SPDX-License-Identifier: AGPL-3.0-or-later
"""Turns, rows and parameters of benchmarks: pure functions, no process is started."""

from __future__ import annotations

import pytest

from benchmarks import harness, plan
from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Outcome, Row

WALL = Row("wall", "s", "lower", "what a user waits")
DECLARED = {"dtype": "bf16", "deterministic": True, "optimizer": "SGD", "workers": 16, "cache": False}


def measured(value: float, **declared: object) -> Measured:
    return Measured(declared={**DECLARED, **declared}, values={"wall": value})


def benchmark(name: str = "b", **parameters: object) -> Benchmark:
    def run_side(job: Job) -> Measured:
        raise AssertionError("not run here")

    return Benchmark(name, "a claim", (WALL,), "cpu", run_side, parameters=parameters)


def test_sides_take_turns():
    turns = harness.schedule(("stock", "ours"), 3)
    assert turns == [(1, "stock"), (1, "ours"), (2, "stock"), (2, "ours"), (3, "stock"), (3, "ours")]


def test_a_failed_side_is_not_tried_again_and_the_other_goes_on():
    turns = harness.alternate(
        ("stock", "ours"),
        3,
        lambda repeat, side: (
            Outcome(side, None, "out of memory") if side == "stock" else Outcome(side, measured(repeat))
        ),
    )
    assert [outcome.side for outcome in turns] == ["stock", "ours", "ours", "ours"]


def test_a_row_has_every_repeat_in_running_order_and_the_ratio_of_the_medians():
    outcomes = [
        Outcome(side, measured(value)) for side, value in [("stock", 9), ("ours", 4), ("stock", 8), ("ours", 2)]
    ]
    (row,) = harness.rows_of((WALL,), outcomes)
    assert (row["stock"], row["ours"], row["tuned"]) == ([9, 8], [4, 2], [])
    assert row["ratio"] == pytest.approx(8.5 / 3, abs=1e-4)


def test_a_side_that_died_is_named_in_the_note_with_its_reason():
    outcomes = [
        Outcome("stock", None, "exit code 1: OutOfMemoryError: CUDA out of memory"),
        Outcome("ours", measured(4)),
    ]
    (row,) = harness.rows_of((WALL,), outcomes)
    assert row["stock"] == []
    assert row["ratio"] is None
    assert "stock FAILED: exit code 1: OutOfMemoryError" in row["note"]


def test_a_row_that_a_side_could_not_measure_is_named_in_the_note_with_its_reason():
    failed = Measured(declared=DECLARED, failed={"wall": "out of memory: tried 80 GiB"})
    (row,) = harness.rows_of((WALL,), [Outcome("stock", failed), Outcome("ours", measured(4))])
    assert "stock FAILED: out of memory: tried 80 GiB" in row["note"]


def test_a_side_that_silently_gave_no_value_is_named_too():
    (row,) = harness.rows_of((WALL,), [Outcome("ours", Measured(declared=DECLARED))])
    assert "ours FAILED: gave no value" in row["note"]


def test_a_side_that_was_not_asked_for_is_said_to_be_missing():
    (row,) = harness.rows_of((WALL,), [Outcome("stock", measured(4))])
    assert row["note"] == "what a user waits; ours: not run"


def test_a_setting_in_which_the_sides_differ_is_flagged():
    outcomes = [Outcome("stock", measured(1)), Outcome("ours", measured(1, deterministic=False))]
    (row,) = harness.rows_of((WALL,), outcomes)
    assert "DIFFERS deterministic: stock True, ours False" in row["note"]
    assert "optimizer" not in row["note"]


def test_a_setting_that_only_one_side_declares_is_flagged():
    flagged = harness.differences({"stock": {"dtype": "fp32"}, "ours": {"dtype": "fp32", "tf32": True}})
    assert flagged == "DIFFERS tf32: stock None, ours True"


def test_equal_settings_are_not_flagged():
    assert harness.differences({"stock": DECLARED, "ours": DECLARED}) == ""


def test_a_note_of_a_side_reaches_the_row():
    told = Measured(declared=DECLARED, values={"wall": 1}, notes={"wall": "first epoch ended at 32.0 s"})
    (row,) = harness.rows_of((WALL,), [Outcome("ours", told)])
    assert row["note"] == "what a user waits; stock: not run; ours: first epoch ended at 32.0 s"


def test_a_note_is_made_from_the_parameters_of_the_run():
    sized = Row("wall", "s", "lower", lambda parameters: f"{parameters['pictures']} pictures")
    (row,) = harness.rows_of((sized,), [Outcome("stock", measured(1)), Outcome("ours", measured(1))], {"pictures": 8})
    assert row["note"] == "8 pictures"


def test_a_row_that_compares_ours_with_itself_has_a_ratio_without_stock():
    halved = Measured(
        declared=DECLARED, values={"wall": 8}, itself={"wall": 4}, notes={"wall": "in half of the memory"}
    )
    stock = Measured(declared={**DECLARED, "deterministic": True})
    (row,) = harness.rows_of((WALL,), [Outcome("stock", stock), Outcome("ours", halved)])
    assert (row["stock"], row["ours"], row["ratio"]) == ([4], [8], 0.5)
    assert row["note"] == "what a user waits; ours: in half of the memory"


def test_settings_take_the_type_of_their_default():
    chosen = harness.parse_settings(
        ["epochs=3", "fraction=0.5", "graph=1"], [benchmark(epochs=100, fraction=1.0, graph=False)]
    )
    assert chosen == {"b": {"epochs": 3, "fraction": 0.5, "graph": True}}


def test_a_setting_applies_to_every_named_benchmark_that_knows_it():
    chosen = harness.parse_settings(
        ["imgsz=64"], [benchmark("a", imgsz=640), benchmark("b", imgsz=640), benchmark("c")]
    )
    assert chosen == {"a": {"imgsz": 64}, "b": {"imgsz": 64}, "c": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch=3", "among: epochs, graph"),
        ("epochs", "expected key=value"),
        ("epochs=many", "expected int"),
        ("graph=yes", "expected 0 or 1"),
    ],
)
def test_a_wrong_setting_says_what_is_expected(text, words):
    with pytest.raises(BenchmarkError, match=words):
        harness.parse_settings([text], [benchmark(epochs=100, graph=False)])


def test_every_program_is_found_by_listing_the_folder():
    found = harness.discover()
    files = {path.stem for path in harness.PROGRAMS.glob("*.py")}
    assert set(found) == files
    assert {"attention", "bccd_wall", "start", "train_step"} <= files


def test_no_two_programs_share_a_row():
    names = [row.name for one in harness.discover().values() for row in one.rows]
    assert len(names) == len(set(names))


def test_no_parameter_is_called_like_an_option_of_the_run():
    assert not [name for one in harness.discover().values() for name in one.parameters if name in plan.RUN_OPTIONS]


def test_a_program_must_be_named_like_its_file(tmp_path):
    (tmp_path / "speed.py").write_text(
        "from benchmarks.harness import Benchmark\nBENCHMARK = Benchmark('fast', 'c', (), 'cpu', print)\n"
    )
    with pytest.raises(BenchmarkError, match=r"speed.py declares the benchmark 'fast'"):
        harness.discover(tmp_path)


def test_files_that_start_with_an_underscore_are_helpers(tmp_path):
    (tmp_path / "_shared.py").write_text("raise AssertionError('imported')\n")
    assert harness.discover(tmp_path) == {}


def test_a_package_that_a_program_lacks_is_named_with_the_python_that_lacks_it(tmp_path):
    (tmp_path / "needy.py").write_text("import no_such_package")
    with pytest.raises(
        BenchmarkError, match=r"^needy.py needs the Python package no_such_package, which .*python.* does not have"
    ):
        harness.discover(tmp_path)
