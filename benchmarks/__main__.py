# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks list | run NAME... | report`: see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from benchmarks import plan, record, report, run, system
from benchmarks.harness import BenchmarkError, discover


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
        command = system.scrub(shlex.join(["python", "-m", "benchmarks", *arguments]))
        plans = plan.make(options, discover(), os.environ)  # all before the first, which may take minutes
        complete = [run.measure(one, options.records, command) for one in plans]
        return 0 if all(complete) else 1
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="stock and ours side by side")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="every benchmark, its rows and what it needs")
    run_verb = verbs.add_parser("run", help="measure and write a record for each NAME")
    run_verb.add_argument("names", nargs="+", metavar="NAME")
    run_verb.add_argument("--repeats", type=int, help="runs per side (default: the benchmark's, mostly 3)")
    run_verb.add_argument(
        "--sides", type=lambda text: text.split(","), help="of stock,tuned,ours (default: all it has)"
    )
    run_verb.add_argument("--rows", type=lambda text: text.split(","), help="only these rows")
    run_verb.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    run_verb.add_argument("--no-warmup", action="store_true", help="skip the discarded first runs")
    run_verb.add_argument("--timeout-s", type=float, help="limit of one run of one side")
    for verb in (run_verb, verbs.add_parser("report", help="print the newest records as markdown")):
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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the running side is ended too
    sys.exit(main())
