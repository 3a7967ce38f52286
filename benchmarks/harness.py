# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a benchmark is, how its sides take turns, and how their measurements become the rows of a record."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import record
from benchmarks.errors import BenchmarkError

SIDES = ("stock", "tuned", "ours")
PROGRAMS = Path(__file__).parent / "programs"
Setting = str | int | float | bool


@dataclass(frozen=True)
class Row:
    """One number of a claim, named as in the issues' tables."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    note: str | Callable[[Mapping[str, Any]], str] = ""
    """What exactly is measured, where the name leaves doubt; made from the parameters where they change what that is."""
    gpus: int = 0
    """How many it needs, where that is more than the benchmark does."""
    only_by_name: bool = False
    """Whether it is measured only where `--rows` names it."""

    def note_of(self, parameters: Mapping[str, Any]) -> str:
        """The note of a run with these parameters: a name's size is that of the claim, which a smaller run does not have."""
        return self.note if isinstance(self.note, str) else self.note(parameters)


@dataclass
class Measured:
    """What one run of one side found. Every key of `values`, `notes`, `failed` and `details` is a row's name."""

    declared: dict[str, Any]
    """At least dtype, deterministic, optimizer, workers, cache (record.DECLARED); None where one does not apply."""
    values: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Rows that this side could not measure, each with its reason ("out of memory: ...")."""
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, dict[str, float]] = field(default_factory=dict)
    """Further numbers of a row, by name, for the table beside the record (details.py)."""
    itself: dict[str, float] = field(default_factory=dict)
    """For rows in which ours is compared with itself under other circumstances: what stands in stock's place."""


@dataclass(frozen=True)
class Job:
    """What a side is asked to do, in its own process."""

    side: str
    parameters: Mapping[str, Any]
    rows: tuple[str, ...]
    scratch: Path
    """An empty folder of this run alone, removed afterwards; `Benchmark.prepare` may have filled it."""
    started_s: float
    """time.monotonic() when the process was started: the clock is one for all processes of the machine."""
    tell: Callable[[Measured], None] = lambda measured: None
    """Says what was found so far. Of a side that is stopped at its limit the last of it counts."""


@dataclass(frozen=True)
class Benchmark:
    """One claim's program. A file in benchmarks/programs declares it as `BENCHMARK`."""

    name: str
    claim: str
    rows: tuple[Row, ...]
    needs: Literal["cuda", "cpu"]
    run_side: Callable[[Job], Measured]
    gpus: int = 1
    """How many it uses, where it needs any."""
    sides: tuple[str, ...] = ("stock", "ours")
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    """What `--set key=value` may change, with defaults of the type expected. A claim is made with the defaults."""
    prepare: Callable[[Mapping[str, Any], Path], None] | None = None
    """Fills a side's scratch folder before its clock starts."""
    warmup: Mapping[str, Setting] | None = None
    """Parameters of one discarded run per side, so that none pays for a cold disk; None: a side warms itself."""
    shares_warmup: bool = False
    """The discarded run of the first side is enough: nearly all that is cold then is what every side reads."""
    repeats: int = 3
    timeout_s: float = 600.0
    """Limit for one run of one side."""


@dataclass(frozen=True)
class Outcome:
    """One run of one side as the parent process saw it: measured, or failed for a reason."""

    side: str
    measured: Measured | None
    """Of one that was stopped at its limit, what it told until then; None if that is nothing, or it failed."""
    failure: str = ""
    was_stopped: bool = False


def discover(folder: Path = PROGRAMS) -> dict[str, Benchmark]:
    """Every file of `folder` that does not start with `_` declares one benchmark."""
    found: dict[str, Benchmark] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(f"benchmarks.programs.{path.stem}", path)
        if spec is None or spec.loader is None:
            raise BenchmarkError(f"{path.name} can not be imported")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            if str(error.name).startswith(("benchmarks", "yolov12")):  # a slip of ours
                raise
            raise BenchmarkError(
                f"{path.name} needs the Python package {error.name}, which {sys.executable} does not have: "
                "type .venv/bin/python -m benchmarks in a clone, after make setup"
            ) from None
        benchmark = module.BENCHMARK
        if benchmark.name != path.stem:
            raise BenchmarkError(f"{path.name} declares the benchmark {benchmark.name!r}: the names must agree")
        found[benchmark.name] = benchmark
    return found


def schedule(sides: Iterable[str], repeats: int) -> list[tuple[int, str]]:
    """(repeat, side) in running order. Sides take turns, so that a drift of the machine hits all of them."""
    return [(repeat, side) for repeat in range(1, repeats + 1) for side in sides]


def alternate(sides: Iterable[str], repeats: int, run_one: Callable[[int, str], Outcome]) -> Iterator[Outcome]:
    """Run the schedule. A side that failed as a whole, or was stopped at its limit, is not tried again: the reason is known."""
    failed: set[str] = set()
    for repeat, side in schedule(sides, repeats):
        if side not in failed:
            outcome = run_one(repeat, side)
            if outcome.measured is None or outcome.was_stopped:
                failed.add(side)
            yield outcome


def rows_of(
    wanted: Iterable[Row], outcomes: list[Outcome], parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The record's rows: each side's values in running order, and in the note what a reader must know.

    Args:
        wanted: rows that were asked for.
        outcomes: of all runs.
        parameters: with which they were made.
    """
    return [
        record.row(
            row.name,
            row.unit,
            row.better,
            {side: _values(row.name, side, outcomes) for side in SIDES},
            note=_note(row, outcomes, parameters or {}),
        )
        for row in wanted
    ]


def declared(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """What each side that ran declared."""
    return {outcome.side: outcome.measured.declared for outcome in outcomes if outcome.measured}


def _values(name: str, side: str, outcomes: list[Outcome]) -> list[float]:
    runs = [(outcome.side, outcome.measured) for outcome in outcomes if outcome.measured]
    found = [measured.values[name] for of, measured in runs if of == side and name in measured.values]
    return found or (
        [measured.itself[name] for _, measured in runs if name in measured.itself] if side == "stock" else []
    )


def _note(row: Row, outcomes: list[Outcome], parameters: Mapping[str, Any]) -> str:
    with_itself = any(run.measured and row.name in run.measured.itself for run in outcomes)
    sides = ("ours",) if with_itself else SIDES
    outcomes = [outcome for outcome in outcomes if outcome.side in sides]
    parts = [row.note_of(parameters)]
    for side in sides:
        runs = [outcome for outcome in outcomes if outcome.side == side]
        said = [run.measured.notes[row.name] for run in runs if run.measured and row.name in run.measured.notes]
        reasons = [_failure(row.name, run) for run in runs]
        parts += [f"{side}: {said[-1]}"] if said else []
        parts += [f"{side}: not run"] if not runs and side != "tuned" else []
        parts += sorted({f"{side} FAILED: {reason}" for reason in reasons if reason})
    parts.append(differences(declared(outcomes)))
    return "; ".join(part for part in parts if part)


def _failure(name: str, outcome: Outcome) -> str:
    if outcome.measured is None:
        return outcome.failure
    if name in outcome.measured.failed:
        return outcome.measured.failed[name]
    return "" if name in outcome.measured.values else "gave no value"


def differences(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """The declared settings in which the sides differ: `DIFFERS deterministic: stock True, ours False`."""
    keys = list(dict.fromkeys(key for settings in sides.values() for key in settings))
    flagged = []
    for key in keys:
        values = {side: settings.get(key) for side, settings in sides.items()}
        if len({repr(value) for value in values.values()}) > 1:
            flagged.append(f"{key}: " + ", ".join(f"{side} {value}" for side, value in values.items()))
    return "DIFFERS " + "; ".join(flagged) if flagged else ""


def parse_settings(texts: Iterable[str], benchmarks: Iterable[Benchmark]) -> dict[str, dict[str, Setting]]:
    """Parameters per benchmark from `key=value` texts; a key applies to every named benchmark that declares it.

    Raises:
        BenchmarkError: no named benchmark knows the key, or the value has another type than the default.
    """
    chosen: dict[str, dict[str, Setting]] = {b.name: dict(b.parameters) for b in benchmarks}
    for text in texts:
        key, separator, value = text.partition("=")
        takers = [name for name, parameters in chosen.items() if key in parameters]
        if not separator or not takers:
            known = ", ".join(sorted({k for parameters in chosen.values() for k in parameters})) or "nothing"
            raise BenchmarkError(f"--set {text}: expected key=value with a key among: {known}")
        for name in takers:
            chosen[name][key] = _parse(key, value, chosen[name][key])
    return chosen


def _parse(key: str, text: str, default: Setting) -> Setting:
    if isinstance(default, bool):
        if text not in {"0", "1"}:
            raise BenchmarkError(f"--set {key}={text}: expected 0 or 1")
        return text == "1"
    try:
        return type(default)(text)
    except ValueError as error:
        raise BenchmarkError(f"--set {key}={text}: expected {type(default).__name__}, as in {key}={default}") from error
