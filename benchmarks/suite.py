# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make bench`: every benchmark that this machine can run, each in the size that fits it.

With enough GPUs a benchmark runs as its claim says. Without, some have a size for the CPU that takes a minute or so; their records say what
was changed. Such a number tells that the programs run, and how a CPU compares; it is not the claim's.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import plan
from benchmarks.harness import Benchmark, BenchmarkError
from benchmarks.plan import Plan
from benchmarks.report import extremes, number

RECORDS = Path("runs/bench")
"""Apart from benchmarks/records, whose files docs quote."""


@dataclass(frozen=True)
class Small:
    """A size for a machine without a GPU."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    """Only these; all if empty."""
    sides: tuple[str, ...] = ("stock", "ours")
    repeats: int = 2


SMALL: dict[str, Small] = {
    "start": Small({"light_starts": 10, "heavy_starts": 1}),
    "export": Small({"imgsz": 160, "calls": 20}, rows=("ort_cpu_n",)),  # its other row builds an engine
    "train_step": Small(
        # Ten steps for their median: of two, one that another program held up made a side look fifty times slower.
        {"device": "cpu", "imgsz": 64, "batch_divisor": 32, "warmup_steps": 2, "steps": 10},
        rows=("train_step_n_b64",),
    ),
    "val": Small(
        {"device": "cpu", "images": 128, "train_images": 16, "epochs": 1, "batch": 16, "imgsz": 64},
        rows=("val_5000_n", "val_5000_n_no_plots"),
        repeats=1,  # three validations of a side, after a training for both
    ),
}
"""Meant to take less than ten minutes together on two cores."""

BY_NAME_ONLY = {
    "deploy": "its exports and starts take minutes on a CPU, and it runs in a clone alone",
    "flash_attn_archs": "needs the CUDA toolkit, and takes hours",
    "flash_attn_build": "needs the CUDA toolkit, and takes hours",
    "images": "builds every image, which takes hours",
    "kernels": "compares our kernels with torch's operations, and nothing with stock",
    "latency": "has more than a hundred rows, and takes long",
    "ready": "needs a container engine, a network and the image yolov12:train",
}


@dataclass(frozen=True)
class Step:
    """One benchmark of the suite, and how the same is typed alone."""

    plan: Plan
    command: str


def names_in(words: Iterable[str]) -> list[str]:
    """`memory,attention` and `memory attention` are the same.

    Raises:
        BenchmarkError: words without a name in them, which would otherwise ask for all.
    """
    words = list(words)
    names = [name for word in words for name in word.split(",") if name]
    if words and not names:
        raise BenchmarkError(f"{' '.join(words)!r} names no benchmark; leave it out to run all, or see: list")
    return names


def steps(
    names: list[str], known: Mapping[str, Benchmark], gpus: int, environment: Mapping[str, str]
) -> tuple[list[Step], list[str]]:
    """(what will be run, a line for each benchmark that is left out and why).

    Args:
        names: of the benchmarks that were asked for; none asks for all that can be run.
        known: every benchmark.
        gpus: how many there are.
        environment: for the settings that reach our side.

    Raises:
        BenchmarkError: one that was asked for can not be run here.
    """
    if unknown := [name for name in names if name not in known]:
        raise BenchmarkError(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(known)}")
    found, left_out = [], []
    for name in names or known:
        reason = _why_not(known[name], gpus)
        if not names and (reason or name in BY_NAME_ONLY):
            left_out.append(f"{name}: left out: {reason or BY_NAME_ONLY[name]}")
        elif reason:
            raise BenchmarkError(f"{name}: {reason}")
        else:
            found.append(_step(known[name], None if _has_gpus(known[name], gpus) else SMALL.get(name), environment))
    return found, left_out


def _has_gpus(benchmark: Benchmark, gpus: int) -> bool:
    return gpus >= (benchmark.gpus if benchmark.needs == "cuda" else 1)


def _why_not(benchmark: Benchmark, gpus: int) -> str:
    """Why a benchmark can not be run here, "" if it can."""
    if benchmark.needs == "cuda" and not _has_gpus(benchmark, gpus) and benchmark.name not in SMALL:
        return f"needs {benchmark.gpus} NVIDIA GPU(s), nvidia-smi shows {gpus}, and it has no size for the CPU"
    data = benchmark.parameters.get("data")
    return (
        f"needs the data set {data} (YOLOV12_BCCD names another place)" if data and not Path(str(data)).exists() else ""
    )


def _step(benchmark: Benchmark, small: Small | None, environment: Mapping[str, str]) -> Step:
    options = argparse.Namespace(
        names=[benchmark.name], repeats=None, sides=None, rows=None, settings=[], no_warmup=False, timeout_s=None
    )
    words = ["run", benchmark.name]
    if small is not None:
        options.settings = [f"{key}={value}" for key, value in small.settings.items()]
        options.rows, options.sides = list(small.rows) or None, list(small.sides)
        options.repeats = small.repeats
        words += ["--repeats", str(small.repeats), "--sides", ",".join(small.sides)]
        words += ["--rows", ",".join(small.rows)] if small.rows else []
        words += [word for setting in options.settings for word in ("--set", setting)]
    (made,) = plan.make(options, {benchmark.name: benchmark}, environment)
    return Step(made, shlex.join(["python", "-m", "benchmarks", *words]))


def table(contents: Iterable[Mapping[str, Any]]) -> list[str]:
    """The rows of all records for a terminal, by medians; behind those of several runs stand the extremes and how many there were.

    A star stands where the record is not as its claim says.
    """
    lines = [("", "row", "stock", "", "ours", "", "ours is", "unit")]
    for content in contents:
        star = "*" if content["parameters"]["changed"] else ""
        for row in content["rows"]:
            sides = (cell for side in ("stock", "ours") for cell in _cells(row[side]))
            better = f"{row['ratio']:.2f}x" if row["ratio"] is not None else "-"
            lines.append((star, row["name"], *sides, better, f"{row['unit']}, {row['better']} is better"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        cells = [
            text.rjust(width) if column in (2, 4, 6) else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
            if width or column == 0
        ]
        shown.append("  ".join(cells).rstrip())
    if any(line[0] for line in lines):
        shown.append("* smaller than the claim, or fewer runs: the record beside says what was changed")
    return shown


def _cells(values: list[float]) -> tuple[str, str]:
    """A side's median, and its spread, so that medians stand below each other."""
    return number(median(values)) if values else "-", extremes(values) if len(values) > 1 else ""
