# SPDX-License-Identifier: AGPL-3.0-or-later
"""The benchmark lr_find: what it asks for, how it judges, and the steep network; its runs are made up but for one that is slow."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import child, kept_runs, record, system
from benchmarks.child import Run
from benchmarks.harness import Job, Measured
from benchmarks.programs import lr_find
from tests.unit.benchmarks.programs import run

TEST = Run([], [0.004, 0.001, 0.016, "between two rules"])


class Made:
    """Runs that are made up: mAP by (network, name), or a failure; `started` has what was asked of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scores: dict[str, Any]) -> None:
        self.scores, self.started = scores, {}
        monkeypatch.setattr(kept_runs, "_start", self._start)
        monkeypatch.setattr(child, "finished", lambda started: started)

    def _start(self, program: str, folder: Path, asked: dict[str, Any], gpu: str) -> Run:
        del gpu
        assert program == "benchmarks.programs.lr_find"
        self.started[folder.name] = asked
        found = self.scores[folder.name.rpartition("-")[0]]
        if isinstance(found, Run):
            return found
        return Run([], [found + 0.01 * asked["seed"], {"optimizer": "SGD"}])


GOOD = {
    "test-plain": TEST,
    "test-steep": Run([], [0.0005, 0.0001, 0.002, "between two rules"]),
    "plain-suggested": 0.55,
    "plain-default": 0.56,
    "steep-suggested": 0.55,
    "steep-default": 0.40,
}


def measure(folder: Path, rows: tuple[str, ...] = tuple(row.name for row in lr_find.ROWS), **changes: Any) -> Measured:
    parameters = {**lr_find.BENCHMARK.parameters, "kept": "", **changes}
    return lr_find.run_side(Job("ours", parameters, rows, folder, time.monotonic()))


def test_each_network_is_trained_with_its_suggestion_and_with_the_default_for_each_seed(monkeypatch, tmp_path):
    made = Made(monkeypatch, GOOD)
    measured = measure(tmp_path)
    assert len(made.started) == 2 + 2 * 2 * 3
    assert made.started["plain-suggested-1"]["lr0"] == 0.004
    assert made.started["steep-suggested-1"]["lr0"] == 0.0005
    assert made.started["steep-default-2"]["lr0"] == 0.01
    assert [made.started[name]["steepness"] for name in ("test-plain-0", "test-steep-0", "steep-default-0")] == [
        1,
        10,
        10,
    ]
    assert measured.values["lr_find_plain"] == pytest.approx(-0.01)
    assert measured.values["lr_find_steep_suggested"] == pytest.approx(0.56)
    assert measured.notes["lr_find_plain"].startswith(
        "no worse (noise 0.0115); lr-find suggested 0.004, from 0.001 to 0.016"
    )
    assert measured.notes["lr_find_steep"].startswith("better (noise ")
    assert not measured.failed


@pytest.mark.parametrize(
    ("network", "difference", "words"),
    [
        ("plain", 0.1, "no worse"),
        ("plain", -0.02, "no worse"),
        ("plain", -0.021, "WORSE"),
        ("steep", 0.021, "better"),
        ("steep", 0.02, "NOT BETTER"),
        ("steep", -0.1, "NOT BETTER"),
    ],
)
def test_the_verdict_is_by_the_noise(network, difference, words):
    assert lr_find.verdict_of(network, difference, noise=0.02) == words


def test_rows_of_one_network_leave_the_other_alone(monkeypatch, tmp_path):
    made = Made(monkeypatch, GOOD)
    measure(tmp_path, rows=("lr_find_steep",))
    assert all("steep" in name for name in made.started)
    assert len(made.started) == 1 + 2 * 3


def test_a_test_that_suggests_nothing_is_the_reason_and_nothing_is_trained_with_it(monkeypatch, tmp_path):
    made = Made(monkeypatch, GOOD | {"test-plain": Run([], [], "exit code 2: error: the loss never fell")})
    measured = measure(tmp_path, rows=("lr_find_plain",))
    assert measured.failed["lr_find_plain"] == "lr-find: exit code 2: error: the loss never fell"
    assert list(measured.values) == ["lr_find_plain_default"]
    assert not [name for name in made.started if name.startswith("plain-suggested")]


DIVERGED = (
    "exit code 75: error: rank 0, step 3: its loss was not finite, and now the weights are not finite either",
    "exit code 1: RuntimeError: Training failed: NaN persisted for 4 epochs",
)


@pytest.mark.parametrize("failure", DIVERGED)
def test_where_the_default_diverges_on_the_steep_network_it_counts_as_nothing(monkeypatch, tmp_path, failure):
    Made(monkeypatch, GOOD | {"steep-default": Run([], [], failure)})
    measured = measure(tmp_path, rows=("lr_find_steep",))
    assert measured.values["lr_find_steep_default"] == 0
    assert failure in measured.notes["lr_find_steep_default"]
    assert measured.notes["lr_find_steep"].startswith("better")


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("steep-default", "exit code 75: out of memory"),
        ("plain-default", "NaN persisted"),
        ("steep-suggested", "NaN persisted"),
    ],
)
def test_any_other_failure_is_a_reason(monkeypatch, tmp_path, kind, failure):
    Made(monkeypatch, GOOD | {kind: Run([], [], failure)})
    measured = measure(tmp_path)
    network, name = kind.split("-")
    assert f"seed 0: {failure}" in measured.failed[f"lr_find_{network}_{name}"]
    assert f"lr_find_{network}" in measured.failed


def test_with_kept_runs_a_call_makes_one_seed(monkeypatch, tmp_path):
    made = Made(monkeypatch, GOOD)
    calls = []
    for _ in range(4):
        made.started = {}
        measured = measure(tmp_path, kept=str(tmp_path / "runs.json"))
        calls.append(sorted(made.started))
    of_seed = [
        [f"{kind}-{seed}" for kind in ("plain-default", "plain-suggested", "steep-default", "steep-suggested")]
        for seed in range(3)
    ]
    assert calls == [[*of_seed[0], "test-plain-0", "test-steep-0"], of_seed[1], of_seed[2], []]
    assert measured.notes["lr_find_plain"].startswith("no worse")


def test_after_the_first_call_the_rest_is_said_to_be_missing(monkeypatch, tmp_path):
    Made(monkeypatch, GOOD)
    measured = measure(tmp_path, kept=str(tmp_path / "runs.json"))
    assert "seed 1: not run yet" in measured.failed["lr_find_plain_default"]


def test_the_steep_trainer_steps_ten_times_as_far():
    class Trainer:
        def build_optimizer(self, parameters):
            return torch.optim.SGD(parameters, lr=0.1)

    moved = []
    for factor in (1.0, 10.0):
        weight = torch.nn.Parameter(torch.zeros(3))
        optimizer = lr_find.steep(Trainer, factor)().build_optimizer([weight])
        weight.grad = torch.tensor([1.0, -2.0, 0.5])
        optimizer.step()
        moved.append(weight.detach())
    assert torch.equal(moved[1], 10 * moved[0])


@pytest.mark.slow  # a range test and four trainings, each in a process
@pytest.mark.timeout(900)
def test_small_on_the_cpu_every_row_has_a_value(photos, tmp_path):
    small = {
        "epochs": 1,
        "imgsz": 96,
        "batch": 4,
        "workers": 0,
        "device": "cpu",
        "data": photos,
        "seeds": 2,
        "steps": 24,
    }
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(
        tmp_path / "records",
        "lr_find",
        "--rows",
        "lr_find_steep,lr_find_steep_suggested,lr_find_steep_default",
        *settings,
    )
    difference, suggested, default = content["rows"]
    assert difference["ours"] == pytest.approx([suggested["ours"][0] - default["ours"][0]])
    assert "lr-find suggested " in difference["note"]
    assert content["declared"]["ours"]["optimizer"] == "SGD"


def test_the_page_says_what_the_record_says():
    file = record.RECORDS / "2026-11-30-nvidia-h200/lr_find-2.json"
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    page = (system.ROOT / "docs/lr-find.md").read_text()
    for line, network in (("gradients as they are", "plain"), ("ten times as large", "steep")):
        (cells,) = re.findall(rf"^\| {line} \| (\S+) \| (\S+) \| (\S+) \| (\S+): ([\w ]+) \|$", page, re.MULTILINE)
        said = re.search(
            r"ours: ([\w ]+) \(noise (\S+)\); lr-find suggested (\S+), from", rows[f"lr_find_{network}"]["note"]
        )
        means = [rows[f"lr_find_{network}_{name}"]["ours"][0] for name in ("suggested", "default")]
        assert said is not None
        assert cells == (said[3], *(f"{mean:.3f}" for mean in means), f"{float(said[2]):.3f}", said[1])
