# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a small memory budget costs in accuracy: the training run of bccd_wall, under 0.35 of stock's peak and without a limit, for several seeds.

All runs are ours, one process each, side by side on the machine's GPUs, so nothing here is a timing. A budget is a cap on what the process may
allocate. On a machine that is lent for minutes the runs are spread over several calls: with MAP_BUDGET_RUNS=FILE each call makes those of one seed
for each GPU, and what is finished waits in the file for the rest.

Within noise means, and was written down before the first measurement: the mean of the limited runs differs from that of the unlimited ones by
at most 0.01 mAP50-95, or by at most two standard errors of the unlimited mean, whichever is more.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks import child, kept_runs, record, sides, system, training
from benchmarks.child import Run
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.noise import noise_of, require_seeds

STOCK_PEAK_GIB = 7.1
"""Of stock in the record bccd_wall of 2026-11-22: reserved, yolov12n, batch 32, 640 px."""
BUDGET = 0.35
"""As a share of stock's peak."""
LIMITS_GIB = {"limited": BUDGET * STOCK_PEAK_GIB, "unlimited": None}
KEPT = os.environ.get("MAP_BUDGET_RUNS", "")
PLAN_LINE = re.compile("memory: .* needs |memory.* -> ")
PLAN_LINES = 3
"""So many of a run's lines about its plan go into the record; all are in the log."""


def _limited_note(parameters: Mapping[str, Any]) -> str:
    if parameters["device"] == "cpu":
        return "mean mAP50-95 without a limit too, since it ran on the CPU"
    return f"mean mAP50-95 under {BUDGET} of stock's {STOCK_PEAK_GIB} GiB"


ROWS = (
    Row("map_budget", "mAP", "higher", "mean mAP50-95 under the budget minus that without a limit"),
    Row("map_budget_limited", "mAP", "higher", _limited_note),
    Row("map_budget_unlimited", "mAP", "higher", "mean mAP50-95 without a limit"),
)


class Result(NamedTuple):
    """What one training run found."""

    map50_95: float
    peak: str
    """Of memory, in words."""
    declared: dict[str, Any]
    plan: tuple[str, ...] = ()
    """What it said of its plan."""


def run_side(job: Job) -> Measured:
    """All runs at once, or those of one seed for each GPU where finished runs are kept."""
    require_seeds(job.parameters["seeds"])
    asked = {
        (name, seed): {**job.parameters, "side": "ours", "seed": seed, "budget_gib": gib}
        for seed in range(job.parameters["seeds"])
        for name, gib in LIMITS_GIB.items()
    }
    runs = kept_runs.run_all("benchmarks.programs.map_budget", asked, job.parameters["kept"], job.scratch)
    return compared({key: _result(run) for key, run in runs.items()})


def compared(results: dict[tuple[str, int], Result | str]) -> Measured:
    """The rows from the result, or the reason of its failure, of each (limited or unlimited, seed)."""
    good = {key: found for key, found in results.items() if isinstance(found, Result)}
    measured = Measured(declared=next((found.declared for found in good.values()), dict.fromkeys(record.DECLARED)))
    maps: dict[str, list[float]] = {}
    for name in ("limited", "unlimited"):
        runs = {seed: found for (kind, seed), found in results.items() if kind == name}
        row = f"map_budget_{name}"
        if wrong := [f"seed {seed}: {found}" for seed, found in runs.items() if isinstance(found, str)]:
            measured.failed[row] = "; ".join(wrong)
            measured.failed.setdefault("map_budget", measured.failed[row])
            continue
        maps[name] = [good[name, seed].map50_95 for seed in runs]
        measured.values[row] = mean(maps[name])
        measured.notes[row] = "; ".join(_described(seed, good[name, seed]) for seed in runs)
    if len(maps) == 2:
        difference, noise = mean(maps["limited"]) - mean(maps["unlimited"]), noise_of(maps["unlimited"])
        measured.values["map_budget"] = difference
        measured.notes["map_budget"] = (
            f"{'within' if abs(difference) <= noise else 'OUTSIDE'} the noise of {noise:.4f}; "
            f"standard deviation over seeds {stdev(maps['limited']):.4f} and {stdev(maps['unlimited']):.4f}"
        )
    return measured


def _described(seed: int, found: Result) -> str:
    return ", ".join([f"seed {seed}: {found.map50_95:.4f}", found.peak, *found.plan[:PLAN_LINES]])


def _result(run: Run) -> Result | str:
    """What a run found with what it said of its plan, or the reason of its failure."""
    if run.failure:
        return run.failure
    plan = tuple(line.partition("memory")[2].lstrip(": ") for line in run.lines if PLAN_LINE.search(line))
    return Result(*run.result)._replace(plan=plan)


def train(asked: dict[str, Any]) -> Result:
    """One run, in this process."""
    import torch

    folder, on_gpu = Path(asked["folder"]), asked["device"] != "cpu"
    if on_gpu and asked["budget_gib"] is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(asked["budget_gib"] * 2**30 / total)
    watch = training.Watch(Job("ours", asked, (), folder, time.monotonic()))
    yolo = training.yolo_class("ours")(asked["model"])
    watch.attach(yolo)
    with training.kept_peak() as peak:
        box = yolo.train(
            data=training.data_yaml(folder),
            project=str(folder / "runs"),
            optimizer="SGD",
            lr0=0.01,
            plots=False,
            amp=asked["amp"] if on_gpu else False,
            **{key: asked[key] for key in ("seed", "epochs", "batch", "imgsz", "workers", "device", "data_pipeline")},
        ).box
    sides.check("ours", sys.modules, sys.meta_path)
    return Result(float(box.map), peak.words(), watch.declared)


BENCHMARK = Benchmark(
    name="map_budget",
    claim=f"yolov12n from scratch on BCCD under {BUDGET} of stock's peak memory: accuracy against no limit",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("ours",),
    parameters=training.RECIPE
    | {
        "epochs": 60,
        "workers": max(1, system.cores() // 6),
        "data_pipeline": "gpu",  # all at once, ultralytics' loader would take the cores of a larger machine
        "seeds": 6,
        "kept": KEPT,
    },
    repeats=1,
    prepare=training.require_dataset,
    timeout_s=540,
)


if __name__ == "__main__":
    child.answer(train)
