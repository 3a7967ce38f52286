# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make bench`: what runs on which machine, in which size, and the table at the end."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

import benchmarks.__main__ as command
from benchmarks import run, suite, system
from benchmarks.harness import BenchmarkError, discover, parse_settings

KNOWN = discover()


def names(steps: list[suite.Step]) -> list[str]:
    return [step.plan.benchmark.name for step in steps]


def content(changed: tuple[str, ...] = (), ours: tuple[float, ...] = (5.0, 6.0, 5.5)) -> dict:
    row = {
        "name": "wall",
        "unit": "s",
        "better": "lower",
        "stock": [10.0],
        "tuned": [],
        "ours": [*ours],
        "ratio": 1.82 if ours else None,
    }
    return {"parameters": {"changed": [*changed]}, "rows": [row]}


def test_without_a_gpu_what_has_a_size_for_the_cpu_runs_in_it():
    steps, left_out = suite.steps([], KNOWN, 0, {})
    assert names(steps) == sorted(suite.SMALL)
    assert all(step.plan.changes() for step in steps)
    assert [line.partition(":")[0] for line in left_out] == sorted(KNOWN.keys() - suite.SMALL.keys())


@pytest.mark.parametrize(("gpus", "has_two"), [(1, False), (2, True)])
def test_with_gpus_all_that_they_are_enough_for_runs_as_its_claim_says(gpus, has_two, monkeypatch):
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H100"] * gpus)
    steps, left_out = suite.steps([], KNOWN, gpus, {})
    assert {"attention", "memory", "train_step", "start"} <= set(names(steps))
    assert ("oom_faults" in names(steps)) == has_two
    assert not any(step.plan.changes() for step in steps)
    assert {line.partition(":")[0] for line in left_out} >= set(suite.BY_NAME_ONLY)


def test_every_small_size_is_one_that_its_benchmark_takes():
    for name, small in suite.SMALL.items():
        parse_settings([f"{key}={value}" for key, value in small.settings.items()], [KNOWN[name]])
        assert set(small.rows) <= {row.name for row in KNOWN[name].rows}


def test_what_is_left_out_by_name_is_there():
    assert set(suite.BY_NAME_ONLY) <= set(KNOWN)


def test_the_command_of_a_step_is_the_same_benchmark_alone():
    (step,), _ = suite.steps(["export"], KNOWN, 0, {})
    options = command._parser().parse_args(step.command.split()[3:])
    (alone,) = command.plan.make(options, KNOWN, {})
    assert (alone.changes(), alone.rows) == (step.plan.changes(), step.plan.rows)


@pytest.mark.parametrize(
    ("name", "words"),
    [("lateness", "no benchmark called lateness; there are: attention"), ("memory", "needs 1 NVIDIA GPU")],
)
def test_a_name_that_can_not_be_run_is_refused_before_anything_runs(name, words):
    with pytest.raises(BenchmarkError, match=words):
        suite.steps(["start", name], KNOWN, 0, {})


def test_a_data_set_that_is_not_there_leaves_its_benchmark_out(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H100"])
    monkeypatch.setitem(KNOWN["bccd_wall"].parameters, "data", str(tmp_path / "missing"))
    _, left_out = suite.steps([], KNOWN, 1, {})
    assert any(line.startswith("bccd_wall: left out: needs the data set") for line in left_out)


def test_what_is_left_out_in_a_clone_does_not_ask_for_one():
    _, left_out = suite.steps([], {"deploy": discover()["deploy"]}, 0, {})
    assert left_out == ["deploy: left out: its exports and starts take minutes on a CPU, and it runs in a clone alone"]


@pytest.mark.parametrize("words", [["memory,attention"], ["memory", "attention"], ["memory,", "attention"]])
def test_names_are_a_list_however_they_are_typed(words):
    assert suite.names_in(words) == ["memory", "attention"]


@pytest.mark.parametrize("words", [[","], ["", ",,"]])
def test_commas_alone_do_not_start_everything(words, monkeypatch, capsys):
    monkeypatch.setattr(run, "measure", None)
    assert command.main(["suite", *words]) == 2
    assert "names no benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, 2), (errno.ENOSPC, 75)])
@pytest.mark.parametrize("verb", ["suite", "run"])
def test_records_that_can_not_be_written_end_the_run_with_one_sentence(
    monkeypatch, capsys, tmp_path, verb, number, code
):
    def refuse(self, *arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(system, "gpus", lambda: [])
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert command.main([verb, "start", "--records", str(tmp_path / "r")]) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: records can not be written to {tmp_path / 'r'}/")


def test_a_small_size_is_repeated_as_often_as_it_says():
    found, _ = suite.steps([], KNOWN, 0, {})
    assert {step.plan.benchmark.name: step.plan.repeats for step in found} == {
        name: small.repeats for name, small in suite.SMALL.items()
    }
    assert suite.SMALL["val"].repeats == 1
    assert all(f"--repeats {step.plan.repeats}" in step.command for step in found)


def test_the_table_has_medians_the_ratio_and_a_star_for_what_is_smaller_than_the_claim():
    full, small = suite.table([content()]), suite.table([content(("imgsz",))])
    assert re.fullmatch(r" *wall +10 +5\.5 .+ 1\.82x +s, lower is better", full[1])
    assert len(full) == 2
    assert small[1].startswith("*")
    assert small[-1].startswith("* smaller than the claim")
    assert re.search(r"wall +10 +- +-", suite.table([content(ours=())])[1])


def test_behind_a_median_of_several_runs_the_table_has_their_spread_and_behind_that_of_one_nothing():
    several, alone = suite.table([content()]), suite.table([content(ours=(5.5,))])
    assert re.search(r"wall +10 +5\.5 +\(5\.\.6, n=3\) +1\.82x", several[1])
    assert re.search(r"wall +10 +5\.5 +1\.82x", alone[1])
    assert re.search(r"stock  ours  ours is  unit$", alone[0])
    assert several[0].index("ours is") + len("ours is") == several[1].index("1.82x") + len("1.82x")


def test_one_that_fails_does_not_keep_the_others_from_the_table(monkeypatch, capsys, tmp_path):
    def measure(plan, records, words):
        if plan.benchmark.name == "export":
            raise BenchmarkError("onnxruntime is not installed")
        return content(("imgsz",))

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(system, "gpus", lambda: [])
    assert command.main(["suite", "--records", str(tmp_path), "start,export"]) == 1
    said = capsys.readouterr()
    assert "export: onnxruntime is not installed" in said.err
    assert "wall" in said.out
    assert command.main(["suite", "--records", str(tmp_path), "start"]) == 0


def test_one_that_is_stopped_leaves_those_before_it_their_table(monkeypatch, capsys, tmp_path):
    def measure(plan, records, words):
        if plan.benchmark.name == "start":
            raise KeyboardInterrupt
        return content()

    monkeypatch.setattr(run, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        command.main(["suite", "export,start", "--records", str(tmp_path)])
    assert "wall" in capsys.readouterr().out
