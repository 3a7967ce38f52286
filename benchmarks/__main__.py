# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks suite | list | run NAME... | report | keep LOG NAME WHAT | step`: see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from benchmarks import keep, plan, plots, readme, record, report, run, suite, system
from benchmarks.errors import BenchmarkError, RecordsError
from benchmarks.harness import discover
from yolov12.log import program


def main(arguments: list[str] | None = None) -> int:
    """0: done; 1: our side gave no value for a row; 2: can not be run as asked; 75: no room for the record."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["step"]:  # its words are those of `yolov12`
        from benchmarks.step import command  # here, since the sides of a benchmark must not load it

        return command.main(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "list":
            return _list()
        if options.verb == "report" and options.plots:
            return _plots()
        if options.verb == "report":
            if options.records != record.RECORDS and not options.records.is_dir():
                raise BenchmarkError(f"--records {options.records}: there is no such folder")
            print(report.render(record.load_all(options.records), system.age))
            return 0
        if options.verb == "keep":
            return _keep(options)
        if options.verb == "suite":
            return _suite(suite.names_in(options.names), options.records)
        command = system.scrub(shlex.join(["python", "-m", "benchmarks", *arguments]))
        plans = plan.make(options, discover(), os.environ)  # all before the first, which may take minutes
        complete = []
        for one in plans:
            content = run.measure(one, options.records, command)
            print(report.render([content], age=lambda commit: ""))
            complete.append(run.is_complete(one, content))
        return 0 if all(complete) else 1
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="stock and ours side by side")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("step", help="where a training step's time goes: model= batch= imgsz= data= (docs/performance.md)")
    verbs.add_parser("list", help="every benchmark, its rows and what it needs")
    suite_verb = verbs.add_parser(
        "suite", help="all that this machine can run, in the size that fits it, and one table"
    )
    suite_verb.add_argument("names", nargs="*", metavar="NAME", help="only these; memory,attention is a list too")
    suite_verb.add_argument("--records", type=Path, default=suite.RECORDS, help=f"folder of records ({suite.RECORDS})")
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
    report_verb = verbs.add_parser("report", help="print the newest records as markdown")
    report_verb.add_argument(
        "--plots",
        action="store_true",
        help="draw those of benchmarks/records for docs/performance.md instead, and fill in README's table",
    )
    keep_verb = verbs.add_parser("keep", help="make a record of a log, without the machine's paths and names")
    keep_verb.add_argument("log", type=Path, metavar="LOG")
    keep_verb.add_argument("name", metavar="NAME", help="of the record: kernels_tests")
    keep_verb.add_argument("what", metavar="WHAT", help="was run, in one line: its first line says so")
    keep_verb.add_argument("--device", help="it ran on, such as nvidia-h200 (default: this machine's GPU)")
    keep_verb.add_argument("--commit", help="that was run (default: this checkout's)")
    keep_verb.add_argument("--date", type=_day, help="of the run, as 2026-11-29 (default: today's)")
    keep_verb.add_argument("--host", action="append", default=[], help="a name of that machine; may be repeated")
    for verb in (run_verb, report_verb, keep_verb):
        verb.add_argument("--records", type=Path, default=record.RECORDS, help="folder of records")
    return parser


def _suite(names: list[str], records: Path) -> int:
    """Measure one after the other; what fails keeps no other from its rows in the table, and Ctrl-C none that was through."""
    steps, left_out = suite.steps(names, discover(), len(system.gpus()), os.environ)
    print(*left_out, sep="\n", file=sys.stderr, flush=True)
    contents: list[dict[str, Any]] = []
    complete = []
    try:
        for step in steps:
            try:
                content = run.measure(step.plan, records, step.command)
            except RecordsError:  # no other would fare better
                raise
            except BenchmarkError as error:
                print(f"error: {step.plan.benchmark.name}: {error}", file=sys.stderr)
                complete.append(False)
                continue
            contents.append(content)
            complete.append(run.is_complete(step.plan, content))
    finally:
        if contents:
            _show(contents, records)
    return 0 if all(complete) else 1


def _show(contents: Sequence[Mapping[str, Any]], records: Path) -> None:
    print("\n".join(suite.table(contents)))
    print(f"records: {records}; `{program()} bench report --records {records}` shows them with their circumstances")


def _plots() -> int:
    if not plots.PAGE.is_file():
        raise BenchmarkError("report --plots fills in docs/performance.md: run it in a clone of the repository")
    contents = record.load_all()
    written = [*plots.write(contents), *readme.write(contents)]
    for path in written:
        print(f"wrote {path.relative_to(system.ROOT)}")
    if not written:
        print("nothing to draw: docs/performance.md and README.md show the newest records")
    return 0


def _keep(options: argparse.Namespace) -> int:
    if not (device := options.device or (system.device(gpus_used=1) if system.gpus() else None)):
        raise BenchmarkError("keep: no GPU is here that it could have run on: type --device, such as nvidia-h200")
    if (commit := options.commit or system.commit()) == "unknown":
        raise BenchmarkError("keep: nothing here tells which commit was run: type --commit")
    path = keep.keep(
        options.log,
        options.name,
        options.what,
        records=options.records,
        date=options.date or datetime.now(UTC).date().isoformat(),
        device=system.slug(device),
        commit=commit,
        hosts=options.host,
    )
    print(f"wrote {path}")
    return 0


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2026-11-29") from error


def _list() -> int:
    for benchmark in discover().values():
        parameters = " ".join(f"{key}={value}" for key, value in benchmark.parameters.items())
        turns = f"{benchmark.repeats} x {', '.join(benchmark.sides)}"
        print(f"{benchmark.name}: {benchmark.claim} (needs {benchmark.needs}; {turns})")
        print(f"    rows: {' '.join(row.name for row in benchmark.rows if not row.only_by_name)}")
        print(f"    parameters: {parameters}" if parameters else "    no parameters")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the running side is ended too
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped: a record that was begun is marked unfinished, and has the turns until then", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
