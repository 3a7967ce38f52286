# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several training runs side by side, one process each, for benchmarks that compare accuracy over seeds; and a file of those that are done.

A program that uses this can be called as `python -m PROGRAM JSON`: it makes the run that JSON asks for and writes FOLDER/result.json.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

from benchmarks import system, training

NOISE = 0.01
"""Smallest difference of means that is no noise, whatever the spread over a few seeds happens to be."""
NOT_YET = "not run yet: the same call again makes the next seed"

Key = tuple[str, int]
"""(what kind of run, seed)."""


class Run(NamedTuple):
    """A run that ended."""

    lines: list[str]
    """What it said."""
    result: list[Any]
    """What it wrote; empty if it failed."""
    failure: str = ""


class Kept:
    """A file of finished runs. Those of other code, parameters or another device are not taken.

    Args:
        path: need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.circumstances = {"code": system.code_digest(), "card": system.device(1)}
        self.runs: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def of(self, key: Key, asked: dict[str, Any]) -> Run | None:
        """A run that was asked for in the same words."""
        found = self.runs.get(str(key))
        return Run(**found["run"]) if found and found["of"] == self._words(asked) else None

    def add(self, key: Key, asked: dict[str, Any], run: Run) -> None:
        """Keep it, and write the whole file at once: the machine may be taken away after any run."""
        self.runs[str(key)] = {"of": self._words(asked), "run": run._asdict()}
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.runs))
        aside.replace(self.path)

    def _words(self, asked: dict[str, Any]) -> dict[str, str]:
        of_the_run = {name: str(value) for name, value in asked.items() if name not in ("kept", "data", "seeds")}
        return self.circumstances | of_the_run


def start(program: str, folder: Path, asked: dict[str, Any]) -> tuple[subprocess.Popen[bytes], Path]:
    """One run in a process and a folder of its own: ultralytics' and our caches are not made for several writers."""
    training.prepare_dataset(asked, folder)
    environment = {
        **os.environ,
        "YOLO_CONFIG_DIR": str(folder / "config"),
        "YOLOV12_CACHE_DIR": str(folder / "cache"),
        "OMP_NUM_THREADS": str(max(1, asked["workers"])),  # they share the cores
    }
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", program, json.dumps({**asked, "folder": str(folder)})]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log), folder


def finished(process: subprocess.Popen[bytes], folder: Path) -> Run:
    """What it said and found, or the last line that it said."""
    code = process.wait()
    lines = [line.rpartition("\r")[2] for line in (folder / "log").read_text(errors="replace").splitlines()]
    if code:
        return Run(lines, [], f"exit code {code}: {next((line for line in reversed(lines) if line), '')}")
    return Run(lines, json.loads((folder / "result.json").read_text()))


def noise_of(values: list[float]) -> float:
    """How far another mean may be from that of these: two standard errors, at least NOISE."""
    return max(NOISE, 2 * stdev(values) / math.sqrt(len(values)))


def together(program: str, scratch: Path, asked: dict[Key, dict[str, Any]], kept: Kept | None = None) -> dict[Key, Run]:
    """The runs that were asked for, all at once; those that are kept are not made again.

    With a file of kept runs only those of the first seed that is missing are made, so that a call ends within minutes: the others are absent
    from the answer.
    """
    done = {key: run for key, of in asked.items() if kept and (run := kept.of(key, of))}
    missing = [key for key in asked if key not in done]
    now = [key for key in missing if kept is None or key[1] == missing[0][1]]
    started = {key: start(program, scratch / "-".join(map(str, key)), asked[key]) for key in now}
    for key, (process, folder) in started.items():
        done[key] = finished(process, folder)
        if kept and not done[key].failure:
            kept.add(key, asked[key], done[key])
    for key, run in done.items():
        print(f"--- {key[0]}-{key[1]}", *run.lines, sep="\n", file=sys.stderr)
    return done
