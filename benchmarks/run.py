# SPDX-License-Identifier: AGPL-3.0-or-later
"""Carry a plan out: warm-up, turns, and a record that is whole after every turn."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from benchmarks import details, record, report, sides, system
from benchmarks.harness import BenchmarkError, Measured, Outcome, alternate, declared, rows_of
from benchmarks.plan import Plan


def measure(plan: Plan, records: Path, command: str) -> dict[str, Any]:
    """Run one benchmark, write its record and log, and return the record."""
    facts = {
        "benchmark": plan.benchmark.name,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": system.device(plan.gpus),
        "command": command,
    }
    path = record.claim(records, facts["date"], facts["device"], plan.benchmark.name, reduced=bool(plan.changes()))
    outcomes: list[Outcome] = []
    try:
        with path.with_suffix(".log").open("w", encoding="utf-8") as log:
            content = _take_turns(plan, path, facts, outcomes, log)
    except BenchmarkError:
        if not outcomes:  # it can not be run as asked, so nothing is lost with the log
            path.with_suffix(".log").unlink()
        raise
    return content


def is_complete(plan: Plan, content: dict[str, Any]) -> bool:
    """Whether our side, if it ran, has a value in every row."""
    return "ours" not in plan.sides or all(row["ours"] for row in content["rows"])


def _take_turns(plan: Plan, path: Path, facts: dict[str, str], outcomes: list[Outcome], log: TextIO) -> dict[str, Any]:
    """Fill `outcomes`; the record after the last turn. One that is cut off stays marked as unfinished, with what it has."""
    name, head, digest = plan.benchmark.name, system.commit(), system.code_digest()
    _say(f"{name}: {plan.repeats} x {', '.join(plan.sides)} on {facts['device']}, record {path.name}", log)

    def run_one(repeat: int, side: str) -> Outcome:
        outcome = sides.run_child(plan.benchmark, side, plan.parameters, plan.row_names, plan.limit_s, log)
        _say(f"{name} {side} {repeat}/{plan.repeats}: {_summary(outcome)}", log)
        return outcome

    def write(unfinished: bool) -> dict[str, Any]:
        content: dict[str, Any] = {
            **facts,
            "commit": system.still(head, digest),
            "versions": _versions([outcome.measured for outcome in outcomes if outcome.measured]),
            "parameters": plan.for_record(unfinished),
            "declared": declared(outcomes),
            "rows": rows_of(plan.rows, outcomes, plan.parameters),
        }
        record.write(path, content)
        details.write(path.with_suffix(".csv"), outcomes)
        return content

    if plan.benchmark.warmup is not None and plan.warmup:
        for side in plan.sides[:1] if plan.benchmark.shares_warmup else plan.sides:
            short = {**plan.parameters, **plan.benchmark.warmup}
            warm = sides.run_child(plan.benchmark, side, short, plan.row_names, plan.limit_s, log)
            _say(f"{name} {side} warm-up, discarded: {_summary(warm)}", log)
    for outcome in alternate(plan.sides, plan.repeats, run_one):
        outcomes.append(outcome)
        write(unfinished=True)
    return write(unfinished=False)


def _versions(measured: list[Measured]) -> dict[str, str]:
    """The versions that the sides ran with. Where they differ, all are kept: `2.4.6 / 2.4.5`."""
    found: dict[str, list[str]] = {}
    for one in measured:
        for name, version in one.versions.items():
            found.setdefault(name, []).append(version)
    return {name: " / ".join(dict.fromkeys(seen)) for name, seen in found.items()} or system.versions()


def _summary(outcome: Outcome) -> str:
    if outcome.measured is None:
        return f"FAILED, {outcome.failure}"
    values = [f"{name}={report.number(value)}" for name, value in outcome.measured.values.items()]
    return " ".join(values + [f"{name} FAILED, {reason}" for name, reason in outcome.measured.failed.items()])


def _say(line: str, log: TextIO) -> None:
    print(line, flush=True, file=sys.stderr)
    print(f"# {line}", file=log, flush=True)
