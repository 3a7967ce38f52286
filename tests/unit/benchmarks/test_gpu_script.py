# SPDX-License-Identifier: AGPL-3.0-or-later
"""benchmarks/gpu.sh with a stub in Python's place, which writes down how it was called."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks/gpu.sh"
STUB = """#!/bin/bash
echo "$*|PYTHONPATH=$PYTHONPATH|COMMIT=${YOLOV12_COMMIT:-}|BCCD=${YOLOV12_BCCD:-}" >>"$CALLS"
case "$*" in
  "-c import polars") exit "${NO_POLARS:-1}" ;;
  "-m pytest"*) echo "2 passed"; exit "${PYTEST_FAILS:-0}" ;;
  "-m benchmarks run"*) [[ -z ${RUNS:-} ]] || echo -n "$RUNS" | tee "$MAP_BUDGET_RUNS" "$MAP_PAIRED_RUNS" >"$LR_FIND_RUNS"; exit "${RUN_FAILS:-0}" ;;
  "-m benchmarks report"*) echo "the table" ;;
esac
"""


class Machine:
    """A folder with a stub Python and a carried folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_file = folder, folder / "calls"
        (folder / "python").write_text(STUB)
        (folder / "python").chmod(0o755)
        for name in ("carry/wheels/u-1-py3-none-any.whl", "carry/stand-ins/polars.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / "carry/commit").write_text("0123456789ab:abc\n")

    def run(self, *arguments: str, script: Path = SCRIPT, **environment: str) -> subprocess.CompletedProcess[str]:
        told = {
            "PYTHON": self.folder / "python",
            "CARRY": self.folder / "carry",
            "OUT": self.folder / "out",
            "CALLS": self.calls_file,
        }
        inherited = {"PATH": os.environ["PATH"]}
        env = inherited | {key: str(value) for key, value in told.items()} | environment
        return subprocess.run([script, *arguments], capture_output=True, text=True, env=env, check=False)

    def calls(self, start: str) -> list[str]:
        return [line for line in self.calls_file.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_the_carried_wheels_are_installed_without_network_first(machine):
    machine.run()
    first = machine.calls_file.read_text().splitlines()[0]
    assert first.startswith("-m pip install --quiet --no-index --no-deps --no-compile --target ")
    assert "u-1-py3-none-any.whl" in first


def test_tests_run_before_the_benchmarks_and_the_table_comes_last(machine):
    done = machine.run()
    order = [
        line.split("|")[0].split()[1:3] for line in machine.calls_file.read_text().splitlines() if line.startswith("-m")
    ]
    assert order == [
        ["pip", "install"],
        ["compileall", "-q"],
        ["pytest", "-q"],
        ["benchmarks", "run"],
        ["benchmarks", "report"],
    ]
    assert done.returncode == 0
    assert done.stdout.splitlines()[-2:] == ["the table", "tests/gpu: passed; benchmarks: ok"]


def test_the_commit_and_the_photos_come_from_what_was_carried(machine):
    machine.run()
    (call,) = machine.calls("-m benchmarks run")
    assert call.endswith(f"|COMMIT=0123456789ab:abc|BCCD={machine.folder}/carry/bccd")


def test_a_commit_that_is_given_wins(machine):
    machine.run(YOLOV12_COMMIT="fedcba9876")
    assert "|COMMIT=fedcba9876|" in machine.calls("-m benchmarks run")[0]


def test_tests_do_not_see_what_is_meant_for_the_benchmarks(machine):
    machine.run()
    assert machine.calls("-m pytest")[0].endswith("|COMMIT=|BCCD=")


def test_names_and_arguments_reach_the_benchmarks(machine):
    machine.run("train_step", "--repeats", "1")
    assert machine.calls("-m benchmarks run train_step --repeats 1 --records ")


def test_failed_tests_do_not_cost_the_measurements_but_show_at_the_end(machine):
    done = machine.run(PYTEST_FAILS="1")
    assert machine.calls("-m benchmarks run")
    assert done.returncode == 1
    assert "tests/gpu: FAILED (exit code 1); benchmarks: ok" in done.stdout


def test_a_failed_benchmark_shows_at_the_end_after_the_table(machine):
    done = machine.run(RUN_FAILS="1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == ["the table", "tests/gpu: passed; benchmarks: FAILED (exit code 1)"]


def test_tests_can_be_left_out(machine):
    assert "tests/gpu: skipped" in machine.run(GPU_TESTS="0").stdout
    assert machine.calls("-m pytest") == []


def test_tests_can_be_chosen(machine):
    machine.run(GPU_TESTS="tests/gpu/test_a.py tests/gpu/test_b.py")
    (call,) = machine.calls("-m pytest")
    assert " tests/gpu/test_a.py tests/gpu/test_b.py|" in call


def test_benchmarks_can_be_left_out(machine):
    done = machine.run("none")
    assert machine.calls("-m benchmarks") == []
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "tests/gpu: passed; benchmarks: skipped")


def memory(machine: Machine, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """gpu_memory.sh on that machine."""
    return machine.run(*arguments, script=SCRIPT.with_name("gpu_memory.sh"), **environment)


@pytest.mark.parametrize(
    ("part", "started"),
    [
        ("tests", "-m pytest -q -rs -p no:cacheprovider tests/gpu/test_memory.py "),
        ("memory", "-m benchmarks run memory --timeout-s "),
        ("map_budget", "-m benchmarks run map_budget --timeout-s "),
    ],
)
def test_each_part_of_the_memory_session_is_one_call(machine, part, started):
    assert memory(machine, part).returncode == 0
    assert len(machine.calls("-m pytest") + machine.calls("-m benchmarks run")) == 1
    assert machine.calls(started)


def test_the_tests_of_the_memory_session_are_there(machine):
    memory(machine, "tests")
    named = re.findall(r"tests/gpu/\w+\.py", machine.calls("-m pytest")[0])
    assert len(named) == 5
    assert all((SCRIPT.parents[1] / name).is_file() for name in named)


@pytest.mark.parametrize("name", ["map_budget", "map_paired", "lr_find"])
def test_kept_runs_come_from_what_was_carried_and_go_back_with_the_records(machine, name):
    out, carried = (machine.folder / folder / f"{name}-runs.json" for folder in ("out", "carry"))
    machine.run(name, KEEP="1", RUNS="the first call's")
    assert out.read_text() == "the first call's"
    out.rename(carried)
    machine.run(name, KEEP="1")
    assert out.read_text() == "the first call's"
    out.write_text("the second call's")
    machine.run(name, KEEP="1")
    assert out.read_text() == "the second call's"


def test_the_memory_session_keeps_the_runs_of_map_budget(machine):
    memory(machine, "map_budget", RUNS="runs")
    assert (machine.folder / "out/map_budget-runs.json").read_text() == "runs"


def test_without_being_told_nothing_is_kept(machine):
    (machine.folder / "carry/map_paired-runs.json").touch()
    machine.run("map_paired")
    assert not (machine.folder / "out/map_paired-runs.json").exists()


def test_another_part_is_refused_with_those_that_there_are(machine):
    done = memory(machine, "memoy")
    assert done.returncode == 2
    assert "tests, memory or map_budget" in done.stderr


def test_a_stand_in_is_used_only_where_the_package_is_missing(machine):
    machine.run()
    assert machine.calls("-m benchmarks run")[0].count("/carry/stand-ins") == 1
    machine.calls_file.unlink()
    machine.run(NO_POLARS="0")
    assert "stand-ins" not in machine.calls("-m benchmarks run")[0]


def test_without_carried_wheels_it_says_how_to_get_them(machine):
    done = machine.run(CARRY=str(machine.folder))
    assert done.returncode == 2
    assert "run `python benchmarks/carry.py`" in done.stderr
