# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs that share a device, whichever program makes them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks import child, harness, kept_runs, system
from tests.unit.benchmarks.programs import job


@pytest.mark.parametrize(
    ("name", "gpus", "memory_gib", "most"),
    [
        ("map_budget", 0, 0, 6),
        ("map_paired", 0, 0, 4),
        ("map_paired", 1, 79.6, 8),
        ("map_paired", 1, 139.8, 12),
        ("map_paired", 2, 47.9, 8),
    ],
)
def test_without_a_file_all_runs_are_made_and_so_many_at_once(monkeypatch, tmp_path, name, gpus, memory_gib, most):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H200"] * gpus)
    monkeypatch.setattr(system, "gpu_memory_gib", lambda: memory_gib)
    running, shared = set(), []

    def start(module: str, folder: Path, asked: dict, gpu: str) -> child.Started:
        running.add(folder)
        shared.append(len(running))
        return child.Started(None, folder)

    def finished(started: child.Started) -> child.Run:
        running.remove(started.folder)
        return child.Run([], None, "made up")

    monkeypatch.setattr(kept_runs, "_start", start)
    monkeypatch.setattr(child, "finished", finished)
    program = harness.discover()[name].run_side
    program(job(name, "ours", (), tmp_path, seeds=3, kept="", data="photos"))
    assert (max(shared), len(shared)) == (most, {"map_budget": 6, "map_paired": 12}[name])


@pytest.mark.parametrize(
    ("visible", "machine", "expected"),
    [
        (None, 0, ["", "", ""]),
        (None, 1, ["0", "0", "0"]),
        (None, 2, ["0", "1", "0"]),
        ("", 2, ["", "", ""]),
        ("3,5", 8, ["3", "5", "3"]),
    ],
)
def test_the_runs_of_a_seed_share_a_gpu_and_seeds_take_them_in_turn(monkeypatch, tmp_path, visible, machine, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(system, "gpus", lambda: ["NVIDIA H200"] * machine)
    seen = {}
    monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked, gpu: seen.setdefault(folder.name, gpu))
    monkeypatch.setattr(child, "finished", lambda started: child.Run([], None, "made up"))
    kept_runs.run_all("module", {(kind, seed): {} for seed in range(3) for kind in "ab"}, "", tmp_path)
    assert [seen[f"a-{seed}"] for seed in range(3)] == [seen[f"b-{seed}"] for seed in range(3)] == expected


@pytest.mark.parametrize(("gpu", "seen"), [("1", "1"), ("", "what it was")])
def test_a_run_sees_its_gpu_alone(monkeypatch, tmp_path, gpu, seen):
    started = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "what it was")
    monkeypatch.setattr(kept_runs.training, "prepare_dataset", lambda asked, folder: None)
    monkeypatch.setattr(child, "start", lambda module, asked, folder, environment: started.append(environment))
    kept_runs._start("module", tmp_path, {"side": "ours", "workers": 2}, gpu)
    assert started[0]["CUDA_VISIBLE_DEVICES"] == seen


def test_with_a_file_a_call_makes_as_many_seeds_as_run_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(kept_runs, "_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked, gpu: folder.name)
    monkeypatch.setattr(child, "finished", lambda started: child.Run([started], 1, ""))
    asked = {("a", seed): {} for seed in range(5)}
    made = [
        [
            key[1]
            for key, run in kept_runs.run_all("module", asked, str(tmp_path / "runs"), tmp_path).items()
            if run.lines
        ]
        for _ in range(3)
    ]
    assert made == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_a_finished_run_is_kept_while_an_earlier_one_still_runs(monkeypatch, tmp_path):
    kept, later_is_kept = tmp_path / "runs", threading.Event()
    add = kept_runs.Kept.add

    def added(self, key: kept_runs.Key, *rest) -> None:
        add(self, key, *rest)
        if key == ("later", 0):
            later_is_kept.set()

    def finished(started: str) -> child.Run:
        in_time = started.startswith("later") or later_is_kept.wait(20)
        return child.Run([started], in_time)

    monkeypatch.setattr(kept_runs, "_start", lambda module, folder, asked, gpu: folder.name)
    monkeypatch.setattr(child, "finished", finished)
    monkeypatch.setattr(kept_runs.Kept, "add", added)
    runs = kept_runs.run_all("module", {("earlier", 0): {}, ("later", 0): {}}, str(kept), tmp_path)
    assert list(runs) == [("earlier", 0), ("later", 0)]
    assert runs["earlier", 0].result is True
