# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `bench step` prints. Pure: numbers in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.step import kinds, trace
from benchmarks.step.ceilings import Ceilings
from benchmarks.step.trace import Profile
from benchmarks.step.work import Work

DATA_PHASES = (trace.DATA, trace.UPLOAD, trace.AUGMENT)


@dataclass(frozen=True)
class Report:
    """Everything that was found out."""

    title: str
    batches: str
    """Where they come from."""
    has_gpu: bool
    is_drawn: bool
    step_ms: float
    """Median without a profiler and without a graph."""
    profile: Profile
    """Of the same."""
    work: Work
    ceilings: Ceilings
    graph_ms: float | None = None
    """Median without a profiler and with a graph; None where none was kept."""
    graph_profile: Profile | None = None
    no_graph: str = ""
    """Why there is none."""


def lines(report: Report) -> list[str]:
    """The report, for a terminal."""
    parts = [
        [report.title, f"batches: {report.batches}"],
        _times(report),
        _phases(report),
        _kinds(report),
        _calls(report),
        _rates(report),
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def _times(report: Report) -> list[str]:
    profiled = f"{report.profile.wall_ms:.1f} ms while it is profiled"
    found = [f"a step without a CUDA graph takes {report.step_ms:.1f} ms (median), {profiled}"]
    if report.graph_ms is not None and report.graph_profile is not None:
        idle = f"the GPU is idle for {report.graph_profile.idle_ms:.1f} ms of {report.graph_profile.wall_ms:.1f} ms while it is profiled"
        found.append(f"a step with a CUDA graph takes {report.graph_ms:.1f} ms (median); {idle}")
    else:
        found.append(f"no step with a CUDA graph: {report.no_graph}")
    return found


def _phases(report: Report) -> list[str]:
    profile, ceilings, work = report.profile, report.ceilings, report.work
    head = ["phase", "host ms", "share"]
    if report.has_gpu:
        head += ["GPU ms", "share", "GB/s", "of copy", "TFLOP/s", "of product"]
    rows = [head]
    for phase in trace.PHASES:
        spent = profile.phases.get(phase)
        if spent is None or (report.is_drawn and phase in DATA_PHASES):
            rows.append([phase] + ["-"] * (len(head) - 1))
            continue
        row = [phase, f"{spent.host_ms:.2f}", _share(spent.host_ms, profile.wall_ms)]
        if report.has_gpu:
            row += [f"{spent.device_ms:.2f}", _share(spent.device_ms, profile.wall_ms)]
            row += _rate(work.moved.get(phase, 0), spent.device_ms, 1e9, ceilings.moved_per_s)
            row += _rate(work.operations.get(phase, 0), spent.device_ms, 1e12, ceilings.operations_per_s)
        rows.append(row)
    if report.has_gpu:
        gaps = ["host gaps (GPU idle)", "", "", f"{profile.idle_ms:.2f}", _share(profile.idle_ms, profile.wall_ms)]
        rows.append(gaps + [""] * (len(head) - len(gaps)))
        notes = [
            "host: until the next phase begins; GPU: the kernels that the host launched in the phase, whenever they ran",
        ]
    else:
        notes = ["no GPU here: no columns of one, no kernels, no launches"]
    if profile.phases.get(trace.AUGMENT) and not report.is_drawn:
        notes.append("augment: in the loader's thread, beside the other phases")
    notes.append("reduce: one process, so nothing is sent; what is left is putting the gradients aside")
    return [*_aligned(rows), *notes]


def _kinds(report: Report) -> list[str]:
    if not report.has_gpu:
        return []
    profile = report.profile
    rows = [["kernels, without a graph", "GPU ms", "share", "calls"]]
    total = sum(spent for spent, _ in profile.kinds.values())
    for kind in kinds.KINDS:
        spent, calls = profile.kinds.get(kind, (0.0, 0.0))
        rows.append([kind, f"{spent:.2f}", _share(spent, total), f"{calls:.0f}"])
    return _aligned([*rows, ["all", f"{total:.2f}", "", f"{sum(calls for _, calls in profile.kinds.values()):.0f}"]])


def _calls(report: Report) -> list[str]:
    if not report.has_gpu:
        return []
    found = [("without a graph", report.profile)]
    if report.graph_profile is not None:
        found.append(("with a graph", report.graph_profile))
    return [
        f"{words}: {profile.launches:.0f} launches a step, {profile.transfers:.0f} copies and fills, "
        f"the host waits {_number(sum(profile.waits.values()))} times"
        + "".join(f", {name} {_number(count)}" for name, count in sorted(profile.waits.items()))
        for words, profile in found
    ]


def _rates(report: Report) -> list[str]:
    ceilings = report.ceilings
    moved, operations = sum(report.work.moved.values()), sum(report.work.operations.values())
    of_step_ms = report.step_ms if report.graph_ms is None else min(report.step_ms, report.graph_ms)
    rows = [["", "a step", "achieved", "ceiling", "share"]]
    for name, amount, unit, scale, most in (
        ("bytes", moved, "GB", 1e9, ceilings.moved_per_s),
        ("operations", operations, "TFLOP", 1e12, ceilings.operations_per_s),
    ):
        rate, share = _rate(amount, of_step_ms, scale, most)
        rows.append([name, f"{amount / scale:.3g} {unit}", f"{rate} {unit}/s", f"{most / scale:.3g} {unit}/s", share])
    return [
        *_aligned(rows),
        f"ceilings: {ceilings.words}; bytes: each operand of each operator once, caches aside",
    ]


def _rate(amount: float, spent_ms: float, scale: float, most_per_s: float) -> list[str]:
    """(amount a second in units of `scale`, its share of the most)."""
    if not spent_ms or not amount:
        return ["-", "-"]
    per_s = amount / spent_ms * 1000
    return [f"{per_s / scale:.3g}", _share(per_s, most_per_s)]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _number(count: float) -> str:
    """Of calls a step: a whole number mostly, and a tenth where some steps had one more."""
    return f"{count:.1f}".removesuffix(".0")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
