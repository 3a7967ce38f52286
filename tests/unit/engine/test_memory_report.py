# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the peaks and plans of steps to memory.csv, the lines and the picture. The step is a stand-in whose peaks a test sets."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yolov12.engine.memory_report import MemoryReport
from yolov12.memory.history import History
from yolov12.memory.peaks import OfNothing, Peaks
from yolov12.memory.plan import Block, Plan, Profile

GIB = 2**30
KNOWN = Profile((Block("a", 1, 3.0, ()), Block("b input", 1, 1.0, (0,), is_input=True)), 0, (0, 0))
KEEPS, DROPS = Plan(frozenset(), 1), Plan(frozenset({0, 1}), 1, parts=2)


def stand_in(plan: Plan | None = None) -> Any:
    recomputation = (
        SimpleNamespace(plan=plan, known=SimpleNamespace(profile=KNOWN, measured=None), budget_bytes=8 * GIB)
        if plan
        else None
    )
    return SimpleNamespace(peaks=Peaks(OfNothing()), history=History(), recomputation=recomputation, micro_batches=1)


def committed(report: MemoryReport, peak: int) -> None:
    """A step that needed so many bytes."""
    step = report.step
    step.history.steps += 1
    step.peaks.step = {"loss": peak}
    step.peaks.run["loss"] = max(peak, step.peaks.run.get("loss", 0))
    report.after_step()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "memory.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_each_epoch_is_a_row_with_the_peaks_of_its_own_steps(tmp_path):
    report = MemoryReport(stand_in(), tmp_path, None)
    for epoch, peaks in ((1, (1, 3)), (2, (2, 2))):
        for peak in peaks:
            committed(report, peak * GIB)
        report.after_epoch(epoch)
    assert [(row["epoch"], row["peak_allocated_gib"], row["step_peaks_std_gib"]) for row in rows(tmp_path)] == [
        ("1", "3", "1"),
        ("2", "2", "0"),
    ]


def test_what_happened_counts_in_its_own_epoch(tmp_path):
    report = MemoryReport(stand_in(), tmp_path, None)
    committed(report, GIB)
    report.step.history.note("retry", "full")
    report.step.history.note("plan", "a -> b")
    report.step.history.smaller_steps += 1
    report.after_epoch(1)
    committed(report, GIB)
    report.after_epoch(2)
    columns = ("repeated_steps", "plan_changes", "steps_on_smaller_images")
    assert [tuple(row[name] for name in columns) for row in rows(tmp_path)] == [("1", "1", "1"), ("0", "0", "0")]


def test_the_cost_of_recomputation_is_the_mean_over_the_steps_and_the_plan_is_the_last(tmp_path):
    report = MemoryReport(stand_in(KEEPS), tmp_path, None)
    committed(report, GIB)
    report.step.recomputation.plan = DROPS
    committed(report, GIB)
    report.after_epoch(1)
    (row,) = rows(tmp_path)
    assert row["share_of_forward_computed_again"] == "0.5"
    assert (row["convolutions_computed_again"], row["inputs_rebuilt"], row["micro_batches"]) == ("1", "1", "2")


def test_once_the_first_steps_were_measured_the_cost_is_told_in_milliseconds_too(tmp_path, capsys):
    report = MemoryReport(stand_in(DROPS), tmp_path, None)
    committed(report, GIB)
    report.after_epoch(1)
    report.step.recomputation.known.measured = "something"
    report.step.recomputation.plan = replace(DROPS)
    committed(report, GIB)
    report.after_epoch(2)
    report.finish(plots=False)
    assert [row["recomputed_ms_a_step"] for row in rows(tmp_path)] == ["", "4"]
    assert "of what forward costs was computed again in backward, about 4.0 ms a step" in capsys.readouterr().err


def test_each_phase_has_the_largest_peak_of_its_epoch(tmp_path):
    report = MemoryReport(stand_in(), tmp_path, None)
    for forward, loss in ((3, 1), (2, 4)):
        report.step.peaks.step = {"forward": forward * GIB, "loss": loss * GIB}
        report.after_step()
    report.after_epoch(1)
    (row,) = rows(tmp_path)
    columns = ("peak_forward_gib", "peak_loss_gib", "peak_backward_gib", "peak_allocated_gib")
    assert [row[name] for name in columns] == ["3", "4", "", "4"]


def test_validation_and_update_have_peaks_of_their_own(tmp_path):
    step = stand_in()
    step.peaks = Peaks(SimpleNamespace(peak=lambda: (5 * GIB, 5 * GIB), reset=lambda: None))
    report = MemoryReport(step, tmp_path, None)
    with report.phase("validation"):
        pass
    report.after_epoch(1)
    assert step.peaks.run["validation"] == 5 * GIB
    assert rows(tmp_path)[0]["peak_allocated_gib"] == "5"
    assert rows(tmp_path)[0]["peak_validation_gib"] == "5"


def test_on_the_cpu_without_events_nothing_is_written_and_nothing_said(tmp_path, capsys):
    report = MemoryReport(stand_in(), tmp_path, None)
    committed(report, 0)
    report.after_epoch(1)
    report.finish(plots=True)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_on_the_cpu_events_alone_are_told(tmp_path, capsys):
    report = MemoryReport(stand_in(), tmp_path, None)
    report.step.history.note("retry", "full")
    report.step.history.note("split", "1 -> 2 micro-batches")
    report.step.micro_batches = 2
    committed(report, 0)
    report.after_epoch(1)
    report.finish(plots=True)
    assert (rows(tmp_path)[0]["repeated_steps"], rows(tmp_path)[0]["micro_batches"]) == ("1", "2")
    assert "1 -> 2 micro-batches" in capsys.readouterr().err
    assert not (tmp_path / "memory.png").exists()


def test_a_resumed_run_goes_on_with_the_table_behind_its_checkpoint(tmp_path):
    first = MemoryReport(stand_in(), tmp_path, None)
    for epoch in (1, 2, 3):
        committed(first, GIB)
        first.after_epoch(epoch)
    second = MemoryReport(stand_in(), tmp_path, None)
    second.begin(start_epoch=2)
    committed(second, 2 * GIB)
    second.after_epoch(3)
    assert [(row["epoch"], row["peak_allocated_gib"]) for row in rows(tmp_path)] == [("1", "1"), ("2", "1"), ("3", "2")]


@pytest.mark.parametrize("plots", [True, False])
def test_the_picture_is_drawn_only_if_pictures_are_wanted(tmp_path, plots):
    report = MemoryReport(stand_in(KEEPS), tmp_path, None)
    committed(report, GIB)
    committed(report, 2 * GIB)
    report.finish(plots)
    assert (tmp_path / "memory.png").exists() == plots


def test_all_but_the_first_rank_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    report = MemoryReport(stand_in(KEEPS), tmp_path, None)
    committed(report, GIB)
    committed(report, GIB)
    report.after_epoch(1)
    report.finish(plots=True)
    assert list(tmp_path.iterdir()) == []
