# SPDX-License-Identifier: AGPL-3.0-or-later
"""A training run that a side starts in a process of its own: what it says goes to a file, what it finds comes back as JSON.

The program of such a process is a benchmark's own file, which calls `answer` where it is run as `python -m`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Run(NamedTuple):
    """A run that ended."""

    lines: list[str]
    """What it said; of a progress bar, its last state."""
    result: Any
    """What it found, as JSON has it; None if it failed."""
    failure: str = ""


class Started(NamedTuple):
    """A run that is under way."""

    process: subprocess.Popen[bytes]
    folder: Path
    """Its own: `log` and `result.json` are written there."""


def start(module: str, asked: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Started:
    """Run `python -m module` with what is asked and the folder, which must exist, as JSON in its first argument."""
    command = [sys.executable, "-m", module, json.dumps({**asked, "folder": str(folder)})]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return Started(process, folder)


def finished(started: Started) -> Run:
    """Wait for it: what it said and found, or the last line that it said."""
    code = started.process.wait()
    log = (started.folder / "log").read_bytes().decode(errors="replace")  # read as text, every "\r" would end a line
    lines = [line.rstrip().rpartition("\r")[2] for line in log.rstrip().split("\n")]
    if code:
        return Run(lines, None, f"exit code {code}: {next((line for line in reversed(lines) if line), '')}")
    return Run(lines, json.loads((started.folder / "result.json").read_text()))


def answer(work: Callable[[dict[str, Any]], Any]) -> None:
    """In the started process: do the work for what is asked, `folder` among it, and leave its result for `finished`.

    An error that our launcher would tell in one line is told so, and ends the process with that exit code.
    """
    asked = json.loads(sys.argv[1])
    try:
        result = work(asked)
    except Exception as error:
        from yolov12.mistakes import as_exit  # not before: a process of stock is to know nothing of ours

        if (known := as_exit(error)) is None:
            raise
        print(f"error: {known}")
        sys.exit(known.exit_code)
    write_result(Path(asked["folder"]), result)


def write_result(folder: Path, result: Any) -> None:
    """Leave the result there: what `answer` does, for work that ends its process itself."""
    (folder / "result.json").write_text(json.dumps(result))
