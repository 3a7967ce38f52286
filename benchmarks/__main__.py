# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks list | run NAME... | report`: see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from benchmarks import record, report, sides, system
from benchmarks.harness import (
    Benchmark,
    BenchmarkError,
    Measured,
    Outcome,
    Row,
    alternate,
    declared,
    discover,
    parse_settings,
    rows_of,
)


def main(arguments: list[str] | None = None) -> int:
    """0: done; 1: our side gave no value for a row; 2: can not be run as asked."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "list":
            return _list()
        if options.verb == "report":
            print(report.render(record.load_all(options.records), system.age))
            return 0
        return _run(options, system.scrub(shlex.join(["python", "-m", "benchmarks", *arguments])))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="stock and ours side by side")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="every benchmark, its rows and what it needs")
    run = verbs.add_parser("run", help="measure and write a record for each NAME")
    run.add_argument("names", nargs="+", metavar="NAME")
    run.add_argument("--repeats", type=int, help="runs per side (default: the benchmark's, mostly 3)")
    run.add_argument("--sides", type=lambda text: text.split(","), help="of stock,tuned,ours (default: all it has)")
    run.add_argument("--rows", type=lambda text: text.split(","), help="only these rows")
    run.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    run.add_argument("--no-warmup", action="store_true", help="skip the discarded first runs: the machine is warm")
    run.add_argument("--timeout-s", type=float, help="limit of one run of one side")
    for verb in (run, verbs.add_parser("report", help="print the newest records as markdown")):
        verb.add_argument("--records", type=Path, default=record.RECORDS, help="folder of records")
    return parser


def _list() -> int:
    for benchmark in discover().values():
        parameters = " ".join(f"{key}={value}" for key, value in benchmark.parameters.items())
        turns = f"{benchmark.repeats} x {', '.join(benchmark.sides)}"
        print(f"{benchmark.name}: {benchmark.claim} (needs {benchmark.needs}; {turns})")
        print(f"    rows: {' '.join(row.name for row in benchmark.rows)}")
        print(f"    parameters: {parameters}" if parameters else "    no parameters")
    return 0


def _run(options: argparse.Namespace, command: str) -> int:
    known = discover()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        raise BenchmarkError(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(known)}")
    wanted = [known[name] for name in options.names]
    parameters = parse_settings(options.settings, wanted)
    plans = [(b, parameters[b.name], _sides(b, options.sides), _rows(b, options.rows)) for b in wanted]
    for benchmark, chosen, _, _ in plans:  # all before the first, which may take minutes
        needed, found = _gpus_used(benchmark, chosen), len(system.gpus())
        if found < needed:
            hint = "; --set device=cpu runs it as a smoke test" if "device" in benchmark.parameters else ""
            raise BenchmarkError(f"{benchmark.name} needs {needed} NVIDIA GPU(s) and nvidia-smi shows {found}{hint}")
    complete = [_measure(benchmark, chosen, on, rows, options, command) for benchmark, chosen, on, rows in plans]
    return 0 if all(complete) else 1


def _gpus_used(benchmark: Benchmark, parameters: Mapping[str, Any]) -> int:
    return benchmark.gpus if benchmark.needs == "cuda" and parameters.get("device") != "cpu" else 0


def _sides(benchmark: Benchmark, asked: list[str] | None) -> tuple[str, ...]:
    wrong = sorted(set(asked or ()) - set(benchmark.sides))
    if wrong:
        raise BenchmarkError(f"--sides {','.join(wrong)}: {benchmark.name} has {','.join(benchmark.sides)}")
    return tuple(asked or benchmark.sides)


def _rows(benchmark: Benchmark, asked: list[str] | None) -> tuple[Row, ...]:
    wrong = sorted(set(asked or ()) - {row.name for row in benchmark.rows})
    if wrong:
        known = ", ".join(row.name for row in benchmark.rows)
        raise BenchmarkError(f"--rows {','.join(wrong)}: {benchmark.name} has {known}")
    return tuple(row for row in benchmark.rows if asked is None or row.name in asked)


def _measure(
    benchmark: Benchmark,
    parameters: Mapping[str, Any],
    on: tuple[str, ...],
    rows: tuple[Row, ...],
    options: argparse.Namespace,
    command: str,
) -> bool:
    """Run one benchmark, write its record and log, print its table. True unless our side left a row without a value."""
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    device = system.device(_gpus_used(benchmark, parameters))
    log_path = record.path_of(options.records, date, device, benchmark.name, ".log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    names = tuple(row.name for row in rows)
    repeats = options.repeats or benchmark.repeats
    limit_s = options.timeout_s or benchmark.timeout_s
    with log_path.open("w", encoding="utf-8") as log:
        _say(f"{benchmark.name}: {repeats} x {', '.join(on)} on {device}", log)

        def run_one(repeat: int, side: str) -> Outcome:
            outcome = sides.run_child(benchmark, side, parameters, names, limit_s, log)
            _say(f"{benchmark.name} {side} {repeat}/{repeats}: {_summary(outcome)}", log)
            return outcome

        if benchmark.warmup is not None and not options.no_warmup:
            for side in on:
                warm = sides.run_child(benchmark, side, {**parameters, **benchmark.warmup}, names, limit_s, log)
                _say(f"{benchmark.name} {side} warm-up, discarded: {_summary(warm)}", log)
        outcomes: list[Outcome] = []
        for outcome in alternate(on, repeats, run_one):
            outcomes.append(outcome)
            content: dict[str, Any] = {
                "benchmark": benchmark.name,
                "date": date,
                "device": device,
                "command": command,
                "commit": system.commit(),
                "versions": _versions([o.measured for o in outcomes if o.measured]),
                "parameters": _for_record(parameters, benchmark.parameters),
                "declared": declared(outcomes),
                "rows": rows_of(rows, outcomes),
            }
            record.write(options.records, content)  # after every turn: a run that is cut off keeps what it has
    print(report.render([content], age=lambda commit: ""))
    return "ours" not in on or all(row["ours"] for row in content["rows"])


def _versions(measured: list[Measured]) -> dict[str, str]:
    """The versions that the sides ran with. Where they differ, all are kept: `2.4.6 / 2.4.5`."""
    found: dict[str, list[str]] = {}
    for one in measured:
        for name, version in one.versions.items():
            found.setdefault(name, []).append(version)
    return {name: " / ".join(dict.fromkeys(seen)) for name, seen in found.items()} or system.versions()


def _for_record(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: system.scrub(value) if isinstance(value, str) else value for key, value in parameters.items()}
    return {**shown, "changed": [key for key in parameters if parameters[key] != defaults[key]]}


def _summary(outcome: Outcome) -> str:
    if outcome.measured is None:
        return f"FAILED, {outcome.failure}"
    values = [f"{name}={report.number(value)}" for name, value in outcome.measured.values.items()]
    return " ".join(values + [f"{name} FAILED, {reason}" for name, reason in outcome.measured.failed.items()])


def _say(line: str, log: TextIO) -> None:
    print(line, file=sys.stderr, flush=True)
    print(f"# {line}", file=log, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the running side is ended too
    sys.exit(main())
