# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where not even one image fits, the error says what memory went to."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from yolov12.engine import failure
from yolov12.engine.failure import explain, largest_kept, totals
from yolov12.memory.plan import Block, Plan, Profile

MIB = 2**20
KNOWN = Profile(
    tuple(Block(f"model.{i}", size * MIB, 1.0, ()) for i, size in enumerate((1, 40, 8, 20, 3, 4, 5))), 0, (0,) * 7
)
SIZES = [("model.1", 3 * MIB), ("optimizer", MIB)]


def test_the_largest_that_are_kept_come_first_and_what_is_computed_again_is_not_among_them():
    found = largest_kept(KNOWN, Plan(frozenset({1}), 0))
    assert [name for name, _ in found] == ["model.3", "model.2", "model.6", "model.5", "model.4"]


def test_sizes_are_those_of_a_part_of_the_batch():
    assert largest_kept(KNOWN, Plan(frozenset(), 0, parts=4))[0] == ("model.1", 10 * MIB)


def test_without_a_plan_no_layer_is_named():
    assert largest_kept(KNOWN, None) == []


def test_the_optimizers_state_counts_once_it_is_there():
    model = nn.Linear(256, 256, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert dict(totals(model, optimizer, model))["optimizer"] == 0
    model(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    size = 256 * 256 * 4
    assert totals(model, optimizer, model) == [("parameters and buffers", size), ("optimizer", size), ("EMA", size)]


def test_on_the_cpu_the_names_are_all(tmp_path: Path):
    told = explain(torch.device("cpu"), tmp_path, SIZES)
    assert told == "; memory went to: model.1 3.0 MiB, optimizer 1.0 MiB"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def snapshot(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What a stand-in for torch's allocator says."""
    content = {"segments": [], "device_traces": []}
    monkeypatch.setattr(failure.torch.cuda.memory, "_snapshot", lambda device: content)
    return content


def test_on_a_gpu_the_snapshot_lies_in_the_runs_folder_and_the_error_names_it(tmp_path: Path, snapshot: dict):
    told = explain(torch.device("cuda", 0), tmp_path, SIZES)
    (written,) = tmp_path.iterdir()
    assert told.endswith(str(written))
    assert pickle.loads(written.read_bytes()) == snapshot


def test_a_snapshot_that_can_not_be_written_is_said_and_hides_nothing(tmp_path: Path, snapshot: dict):
    told = explain(torch.device("cuda", 0), tmp_path / "gone", SIZES)
    assert told.startswith("; memory went to: model.1")
    assert "could not be written: can not write" in told
