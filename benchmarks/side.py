# SPDX-License-Identifier: AGPL-3.0-or-later
"""One run of one side: `python -m benchmarks.side NAME SIDE` prints lines of JSON, the fields of harness.Measured, of which the last one counts.

Everything else that the libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import sides, system
from benchmarks.harness import SIDES, Job, Measured, discover


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. A failure leaves as a traceback: the parent process keeps its last line as the reason."""
    started_s = time.monotonic()
    benchmarks = discover()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side", description=__doc__)
    parser.add_argument("name", choices=sorted(benchmarks))
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--parameters", type=json.loads, default={})
    parser.add_argument("--rows", type=lambda text: tuple(filter(None, text.split(","))), default=())
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--started-s", type=float, default=started_s)
    options = parser.parse_args(arguments)

    # Libraries write to file descriptor 1, from C and from child processes too: only the result may reach the parent.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    benchmark = benchmarks[options.name]
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="bench-"))
    rows = options.rows or tuple(row.name for row in benchmark.rows)
    versions = system.versions()

    def tell(measured: Measured) -> None:
        sides.check(options.side, sys.modules, sys.meta_path)
        told = dataclasses.replace(only_finite(measured), versions=versions)
        print(json.dumps(dataclasses.asdict(told)), file=result, flush=True)

    job = Job(options.side, {**benchmark.parameters, **options.parameters}, rows, scratch, options.started_s, tell)
    if options.scratch is None and benchmark.prepare:
        benchmark.prepare(job.parameters, scratch)
    tell(benchmark.run_side(job))
    return 0


def only_finite(measured: Measured) -> Measured:
    """A value that is no number is a failure of its row, not a value."""
    for name, value in list(measured.values.items()):
        if not math.isfinite(value):
            del measured.values[name]
            measured.failed[name] = f"gave {value}"
    return measured


if __name__ == "__main__":
    sys.exit(main())
