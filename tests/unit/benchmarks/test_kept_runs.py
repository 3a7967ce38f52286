# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs that share a device, whichever program makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import child, harness, kept_runs, system
from tests.unit.benchmarks.programs import job


@pytest.mark.parametrize(
    ("name", "memory_gib", "most"),
    [("map_budget", 0, 6), ("map_paired", 0, 4), ("map_paired", 79.6, 8), ("map_paired", 139.8, 12)],
)
def test_without_a_file_all_runs_are_made_and_so_many_share_the_device(monkeypatch, tmp_path, name, memory_gib, most):
    monkeypatch.setattr(system, "gpu_memory_gib", lambda: memory_gib)
    running, shared = set(), []

    def start(module: str, folder: Path, asked: dict) -> child.Started:
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
