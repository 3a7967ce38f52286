# SPDX-License-Identifier: AGPL-3.0-or-later
"""What one run of a benchmark will do, checked before anything starts, and how it differs from what the claim says."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import sides, system
from benchmarks.harness import Benchmark, BenchmarkError, Row, parse_settings

RUN_OPTIONS = ("rows", "sides", "repeats", "warmup", "environment", "unfinished")
"""Names under which a record tells how the run itself was changed; no benchmark may call a parameter so."""


@dataclass(frozen=True)
class Plan:
    """One benchmark with everything that the command line may change about it."""

    benchmark: Benchmark
    parameters: Mapping[str, Any]
    rows: tuple[Row, ...]
    sides: tuple[str, ...]
    repeats: int
    warmup: bool
    """Whether the benchmark's discarded runs come first; True also where it has none."""
    limit_s: float
    """Limit for one run of one side."""
    settings: Mapping[str, str]
    """YOLOV12_ variables that reach our side."""

    @property
    def row_names(self) -> tuple[str, ...]:
        """Of the rows that are measured."""
        return tuple(row.name for row in self.rows)

    @property
    def gpus(self) -> int:
        """How many it uses; a benchmark may let one choose by a parameter `ranks`, or by the rows."""
        if not _is_on_gpus(self.benchmark, self.parameters):
            return 0
        of_benchmark = int(self.parameters.get("ranks", self.benchmark.gpus))
        return max([of_benchmark, *(row.gpus for row in self.rows)])

    def changes(self) -> dict[str, Any]:
        """What is not as the claim says, by name. More repeats than the claim's are no change: they only make it firmer."""
        claim = self.benchmark
        changed: dict[str, Any] = {
            key: value for key, value in self.parameters.items() if value != claim.parameters[key]
        }
        if self.rows != _rows_for(claim, self.gpus):
            changed["rows"] = list(self.row_names)
        if self.sides != claim.sides:
            changed["sides"] = list(self.sides)
        if self.repeats < claim.repeats:
            changed["repeats"] = self.repeats
        if not self.warmup:
            changed["warmup"] = False
        if self.settings and "ours" in self.sides:
            changed["environment"] = [f"{key}={value}" for key, value in sorted(self.settings.items())]
        return changed

    def for_record(self, unfinished: bool) -> dict[str, Any]:
        """The record's `parameters`: all of them as they were, with the names of those that were changed."""
        changed = self.changes() | ({"unfinished": True} if unfinished else {})
        return {key: _scrubbed(value) for key, value in {**self.parameters, **changed}.items()} | {
            "changed": [*changed]
        }


def make(options: argparse.Namespace, known: Mapping[str, Benchmark], environment: Mapping[str, str]) -> list[Plan]:
    """A plan for each name in `options` (the arguments of `run`).

    Raises:
        BenchmarkError: a name, a value or a count that no benchmark can be run with, or too few GPUs.
    """
    unknown = [name for name in options.names if name not in known]
    if unknown:
        raise BenchmarkError(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(known)}")
    for flag, value in (("--repeats", options.repeats), ("--timeout-s", options.timeout_s)):
        if value is not None and value <= 0:
            raise BenchmarkError(f"{flag} {value:g}: expected more than 0")
    wanted = [known[name] for name in dict.fromkeys(options.names)]
    parameters = parse_settings(options.settings, wanted)
    settings = sides.our_settings(environment)
    plans = [_plan(benchmark, parameters[benchmark.name], options, settings) for benchmark in wanted]
    for plan in plans:
        _check_gpus(plan)
    return plans


def _plan(
    benchmark: Benchmark, parameters: Mapping[str, Any], options: argparse.Namespace, settings: Mapping[str, str]
) -> Plan:
    row_names = _chosen("--rows", options.rows, [row.name for row in benchmark.rows], benchmark.name)
    if options.rows is None:
        row_names = tuple(row.name for row in benchmark.rows if not row.only_by_name)
    if options.rows is None and _is_on_gpus(benchmark, parameters):
        row_names = tuple(row.name for row in _rows_for(benchmark, max(len(system.gpus()), benchmark.gpus)))
    return Plan(
        benchmark,
        parameters,
        rows=tuple(row for row in benchmark.rows if row.name in row_names),
        sides=_chosen("--sides", options.sides, benchmark.sides, benchmark.name),
        repeats=options.repeats or benchmark.repeats,
        warmup=benchmark.warmup is None or not options.no_warmup,
        limit_s=options.timeout_s or benchmark.timeout_s,
        settings=settings,
    )


def _is_on_gpus(benchmark: Benchmark, parameters: Mapping[str, Any]) -> bool:
    return benchmark.needs == "cuda" and parameters.get("device") != "cpu"


def _rows_for(benchmark: Benchmark, gpus: int) -> tuple[Row, ...]:
    """The rows of a claim for which so many GPUs are enough."""
    return tuple(row for row in benchmark.rows if row.gpus <= gpus and not row.only_by_name)


def _chosen(flag: str, asked: list[str] | None, has: Iterable[str], name: str) -> tuple[str, ...]:
    """Those of `has` that were asked for, in the benchmark's order; all if nothing was asked."""
    has = tuple(has)
    if asked is None:
        return has
    if wrong := sorted(set(asked) - set(has)):
        raise BenchmarkError(f"{flag} {','.join(wrong)}: {name} has {', '.join(has)}")
    return tuple(one for one in has if one in asked)


def _check_gpus(plan: Plan) -> None:
    needed, found = plan.gpus, len(system.gpus())
    if found < needed:
        hint = "; --set device=cpu runs it as a smoke test" if "device" in plan.parameters else ""
        raise BenchmarkError(f"{plan.benchmark.name} needs {needed} NVIDIA GPU(s) and nvidia-smi shows {found}{hint}")


def _scrubbed(value: Any) -> Any:
    if isinstance(value, list):
        return [_scrubbed(one) for one in value]
    return system.scrub(value) if isinstance(value, str) else value
