# SPDX-License-Identifier: AGPL-3.0-or-later
"""map_budget: trainings under a limit beside ones without, and what becomes of finished ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import child, harness, kept_runs, system
from tests.unit.benchmarks.programs import job, run

MAP_BUDGET = harness.discover()["map_budget"].run_side.__globals__


@pytest.mark.timeout(900)  # four whole training processes side by side
def test_runs_under_a_budget_are_compared_with_unlimited_ones(photos, tmp_path):
    small = {"epochs": 1, "imgsz": 32, "batch": 4, "workers": 0, "device": "cpu", "data": photos, "seeds": 2}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "map_budget", *settings)
    difference, limited, unlimited = content["rows"]
    assert difference["ours"] == pytest.approx([limited["ours"][0] - unlimited["ours"][0]])
    assert "seed 0: " in limited["note"]
    assert "seed 1: " in unlimited["note"]
    assert content["declared"]["ours"]["optimizer"] == "SGD"


def compared(limited: list[float], unlimited: list[float]) -> harness.Measured:
    results = {}
    for name, maps in (("limited", limited), ("unlimited", unlimited)):
        results |= {(name, seed): MAP_BUDGET["Result"](value, "no GPU", {}) for seed, value in enumerate(maps)}
    return MAP_BUDGET["compared"](results)


def test_a_difference_of_means_is_noise_up_to_two_standard_errors():
    spread = [0.50, 0.56, 0.62]  # standard deviation 0.06: two standard errors are 0.0693
    assert "within the noise of 0.0693" in compared([0.49, 0.49, 0.50], spread).notes["map_budget"]
    assert "OUTSIDE the noise of 0.0693" in compared([0.48, 0.49, 0.50], spread).notes["map_budget"]


def test_a_hundredth_is_noise_however_near_the_seeds_are():
    near = [0.560, 0.561, 0.562]
    assert "within the noise of 0.0100" in compared([0.552, 0.552, 0.552], near).notes["map_budget"]
    assert "OUTSIDE the noise of 0.0100" in compared([0.550, 0.550, 0.550], near).notes["map_budget"]


def test_a_run_under_the_budget_that_fails_is_a_reason_and_not_a_difference():
    results = {
        ("unlimited", 0): MAP_BUDGET["Result"](0.5, "no GPU", {}),
        ("unlimited", 1): MAP_BUDGET["Result"](0.6, "no GPU", {}),
    }
    results |= {("limited", 0): MAP_BUDGET["Result"](0.5, "no GPU", {}), ("limited", 1): "exit code 75: out of memory"}
    measured = MAP_BUDGET["compared"](results)
    assert measured.values == {"map_budget_unlimited": pytest.approx(0.55)}
    assert measured.failed["map_budget"] == "seed 1: exit code 75: out of memory"


class Calls:
    """Calls of map_budget with a file of kept runs, whose training runs are made up; `made` are those of the last call."""

    def __init__(self, monkeypatch, folder: Path) -> None:
        self.folder, self.made, self.fails = folder, [], set()
        monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked, gpu: child.Started(None, folder))
        monkeypatch.setattr(child, "finished", self._finished)
        monkeypatch.setattr(kept_runs, "_gpus", lambda: ["0"])

    def _finished(self, started: child.Started) -> child.Run:
        self.made.append(started.folder.name)
        if started.folder.name in self.fails:
            return child.Run([], None, "exit code 1: a bug")
        return child.Run(["memory: batch 32 needs 1 GiB"], [0.5, "no GPU", {}, []])

    def call(self, **parameters: object) -> harness.Measured:
        self.made.clear()
        asked = {"kept": str(self.folder / "runs.json"), "data": "photos", "seeds": 3, **parameters}
        return MAP_BUDGET["run_side"](job("map_budget", "ours", (), self.folder, **asked))


def test_with_kept_runs_each_call_makes_one_seed_until_all_are_there(monkeypatch, tmp_path):
    calls = Calls(monkeypatch, tmp_path)
    for seed in (0, 1):
        unfinished = calls.call()
        assert calls.made == [f"limited-{seed}", f"unlimited-{seed}"]
        assert "seed 2: not run yet: the same call again makes further seeds" in unfinished.failed["map_budget"]
    measured = calls.call()
    assert calls.made == ["limited-2", "unlimited-2"]
    assert measured.values["map_budget"] == 0
    assert measured.notes["map_budget_limited"].count("batch 32 needs 1 GiB") == 3
    calls.call()
    assert calls.made == []


def test_a_failed_run_is_made_again_and_that_of_other_parameters_is_not_taken(monkeypatch, tmp_path):
    calls = Calls(monkeypatch, tmp_path)
    calls.fails = {"limited-0"}
    assert "seed 0: exit code 1: a bug" in calls.call(seeds=2).failed["map_budget"]
    calls.fails.clear()
    calls.call(seeds=2)
    assert calls.made == ["limited-0"]
    calls.call(seeds=2, epochs=7)
    assert calls.made == ["limited-0", "unlimited-0"]


def test_runs_of_another_device_are_not_taken(monkeypatch, tmp_path):
    calls = Calls(monkeypatch, tmp_path)
    calls.call(seeds=2)
    monkeypatch.setattr(system, "device", lambda gpus: "another-card")
    calls.call(seeds=2)
    assert calls.made == ["limited-0", "unlimited-0"]
