# SPDX-License-Identifier: AGPL-3.0-or-later
"""bccd_wall: a whole training of each side, and how its wall clock is split."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import harness, training
from benchmarks.harness import Job
from tests.unit.benchmarks.programs import run


@pytest.mark.timeout(900)  # two whole training processes, a minute of CPU time together
def test_a_training_run_gives_time_and_accuracy_for_both_sides(photos, tmp_path):
    small = {"epochs": 2, "imgsz": 32, "batch": 4, "workers": 0, "device": "cpu", "data": photos}
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "bccd_wall", "--no-warmup", *settings)
    rows = {row["name"]: row for row in content["rows"]}
    assert all(len(row["stock"]) == len(row["ours"]) == 1 for row in rows.values())
    assert {side: declared["optimizer"] for side, declared in content["declared"].items()} == {
        "stock": "SGD",
        "ours": "SGD",
    }
    for side in ("stock", "ours"):
        wall_s, *phases_s = (rows[f"bccd_{name}"][side][0] for name in ("wall", "first_epoch", "epoch", "final"))
        assert sum(phases_s) == pytest.approx(wall_s), "with two epochs the phases are the whole"


class Clock:
    """A trainer's callbacks at given seconds."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(training.time, "monotonic", lambda: self.now_s)
        self.watch = training.Watch(Job("stock", {}, (), tmp_path, started_s=100.0))
        self.watch.declared = {"dtype": None}  # as if read: there is no trainer
        self.callbacks: dict = {}
        self.watch.attach(SimpleNamespace(add_callback=self.callbacks.__setitem__))

    def at(self, second: float, event: str) -> None:
        self.now_s = 100.0 + second
        self.callbacks[event](None)


def test_the_wall_clock_is_split_into_first_epoch_median_epoch_and_what_follows(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, tmp_path)
    clock.at(12, "on_train_start")
    for begin_s, last_batch_s, validation_s in [(12, 30, 32), (34, 36, 36), (37, 38, 38), (40, 49, 49)]:
        clock.at(begin_s, "on_train_epoch_start")
        clock.at(last_batch_s, "on_train_epoch_end")
        clock.at(validation_s, "on_val_start")
    clock.at(50, "on_val_start")  # of the best checkpoint
    program = harness.discover()["bccd_wall"].run_side.__globals__
    measured = program["phases"](clock.watch, imported_s=5.0, wall_s=58.0)
    assert measured.values == {"bccd_wall": 58, "bccd_first_epoch": 34, "bccd_epoch": 3, "bccd_final": 8}
    assert measured.notes == {
        "bccd_first_epoch": "YOLO imported at 5.0 s, first batch asked for at 12.0 s, last batch through at 30.0 s",
        "bccd_epoch": "1.00 s of it after the last batch",
    }


def test_one_epoch_alone_has_no_median_of_further_ones(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, tmp_path)
    clock.at(30, "on_train_epoch_end")
    clock.at(32, "on_val_start")
    clock.at(34, "on_val_start")
    measured = harness.discover()["bccd_wall"].run_side.__globals__["phases"](clock.watch, 5.0, 40.0)
    assert measured.failed == {"bccd_epoch": "one epoch has no further ones"}
    assert measured.values["bccd_final"] == 6
