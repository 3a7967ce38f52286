# SPDX-License-Identifier: AGPL-3.0-or-later
"""One side in its own process: environment, time limit, and the proof that stock was stock and ours was ours."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TextIO

from benchmarks.harness import Benchmark, Measured, Outcome
from benchmarks.system import ROOT, scrub

HOOK = {"yolov12", "yolov12.compat"}
"""What the drop-in's hook loads at the start of every interpreter; with YOLOV12_DISABLE=1 it does nothing more."""
NOT_INHERITED = {"YOLOV12_COMMIT", "YOLOV12_BCCD", "YOLOV12_DISABLE", "YOLOV12_CACHE_DIR"}
STOPPED = "stopped at its limit"
ATTENTION_MODULE = "ultralytics.nn.modules.block"


class SideError(Exception):
    """A side was not what its name says, so its numbers are void."""


def environment(side: str, scratch: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a side's process.

    Both get an empty ultralytics configuration, no network and no installs. Our settings reach ours only; stock is
    told to stay stock.
    """
    kept = {key: value for key, value in base.items() if not key.startswith("YOLOV12_")}
    kept |= our_settings(base) if side == "ours" else {}
    kept |= {
        "YOLO_CONFIG_DIR": str(scratch / "config"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), base.get("PYTHONPATH", "")])),
    }
    return kept | ({"YOLOV12_CACHE_DIR": str(scratch / "cache")} if side == "ours" else {"YOLOV12_DISABLE": "1"})


def our_settings(base: Mapping[str, str]) -> dict[str, str]:
    """The YOLOV12_ variables that our side inherits: those that the parent neither reads itself nor sets anew."""
    return {key: value for key, value in base.items() if key.startswith("YOLOV12_") and key not in NOT_INHERITED}


def check(side: str, modules: Mapping[str, ModuleType], meta_path: list[Any]) -> None:
    """Raise SideError if the process with these sys.modules and sys.meta_path was not the `side` that it measured."""
    block = modules.get(ATTENTION_MODULE)
    forward = block.AAttn.forward if block else None
    upstream = forward is None or (
        forward.__module__ == ATTENTION_MODULE and forward.__code__.co_filename.endswith("nn/modules/block.py")
    )
    if side == "ours":
        if forward is not None and upstream:
            raise SideError("ours ran upstream's AAttn.forward: the attention of yolov12 was not installed")
        return
    loaded = sorted(name for name in modules if name.split(".")[0] == "yolov12" and name not in HOOK)
    finders = [type(finder).__module__ for finder in meta_path if type(finder).__module__.startswith("yolov12")]
    if loaded or finders or not upstream:
        seen = loaded or finders or [f"AAttn.forward of {forward.__module__}" if forward else ""]
        raise SideError(f"{side} was not stock: {', '.join(seen)} in its process")


def run_child(
    benchmark: Benchmark, side: str, parameters: Mapping[str, Any], rows: tuple[str, ...], limit_s: float, log: TextIO
) -> Outcome:
    """One run of one side in a process of its own. Its output goes to `log`, without the machine's paths.

    Of one that is stopped at its limit, what it has told until then counts.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        scratch = Path(folder)
        if benchmark.prepare:
            benchmark.prepare(parameters, scratch)
        command = [sys.executable, "-m", "benchmarks.side", benchmark.name, side]
        command += ["--parameters", json.dumps(dict(parameters)), "--rows", ",".join(rows), "--scratch", folder]
        print(scrub(f"$ python {shlex.join(command[1:])}"), file=log, flush=True)
        answer, last_line, ending = communicate(command, environment(side, scratch, os.environ), limit_s, log)
    *told, cut = answer.split("\n")  # the last one is empty but where it was stopped within a line
    was_stopped = ending.startswith(STOPPED)
    if not told or (ending and not was_stopped):
        ending = ending or f"told nothing but {cut!r}"
        print(f"-> {ending}", file=log, flush=True)
        return Outcome(side, None, f"{ending}: {last_line}" if last_line else ending, was_stopped)
    print(f"-> {scrub(told[-1])}", file=log, flush=True)
    measured = Measured(**json.loads(told[-1]))
    if was_stopped:
        print(f"-> {ending}", file=log, flush=True)
        for row in rows:
            if row not in measured.values:
                measured.failed.setdefault(row, ending)
    return Outcome(side, measured, was_stopped=was_stopped)


def communicate(command: list[str], env: Mapping[str, str], limit_s: float, log: TextIO) -> tuple[str, str, str]:
    """Run `command` to its end or its limit, its stderr going to `log`: (stdout, last line of stderr, bad ending or "")."""
    last_line, ending = "", ""

    def copy(stream: IO[bytes]) -> None:
        nonlocal last_line
        for line in stream:
            shown = _last_state(line.decode(errors="replace"))
            last_line = shown or last_line
            print(shown, file=log, flush=True)

    with tempfile.TemporaryFile("w+") as stdout:
        process = subprocess.Popen(
            [*command, "--started-s", repr(time.monotonic())],
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,  # as bytes: text mode would make a line of every "\r" of a progress bar
            start_new_session=True,  # so that what it started can be ended with it
        )
        assert process.stderr is not None
        reader = threading.Thread(target=copy, args=(process.stderr,))
        reader.start()
        try:
            code = process.wait(limit_s)
            ending = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ending = f"{STOPPED} of {limit_s:g} s"
        finally:  # also when we are being stopped: nothing of a side may run on beside the next one
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()
        stdout.seek(0)
        return stdout.read(), last_line, ending


def _last_state(line: str) -> str:
    """What a terminal would show of a line that a progress bar wrote over and over."""
    return scrub(line.rstrip().rpartition("\r")[2])
