# SPDX-License-Identifier: AGPL-3.0-or-later
"""One side in its own process: environment, time limit, and the proof that stock was stock and ours was ours."""

from __future__ import annotations

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
from typing import Any, TextIO

from benchmarks.harness import Benchmark, Measured, Outcome
from benchmarks.system import ROOT, scrub

HOOK = {"yolov12", "yolov12.compat"}
"""What the drop-in's hook loads at the start of every interpreter; with YOLOV12_DISABLE=1 it does nothing more."""
ATTENTION_MODULE = "ultralytics.nn.modules.block"


class SideError(Exception):
    """A side was not what its name says, so its numbers are void."""


def environment(side: str, scratch: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a side's process.

    Both get an empty ultralytics configuration, no network and no installs. Our settings reach ours only; stock is
    told to stay stock.
    """
    kept = {key: value for key, value in base.items() if side == "ours" or not key.startswith("YOLOV12_")}
    for read_by_the_parent in ("YOLOV12_COMMIT", "YOLOV12_BCCD", "YOLOV12_DISABLE"):
        kept.pop(read_by_the_parent, None)
    kept |= {
        "YOLO_CONFIG_DIR": str(scratch / "config"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), base.get("PYTHONPATH", "")])),
    }
    return kept | ({"YOLOV12_CACHE_DIR": str(scratch / "cache")} if side == "ours" else {"YOLOV12_DISABLE": "1"})


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
    """One run of one side in a process of its own. Its output goes to `log`, without the machine's paths."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        scratch = Path(folder)
        if benchmark.prepare:
            benchmark.prepare(parameters, scratch)
        command = [sys.executable, "-m", "benchmarks.side", benchmark.name, side]
        command += ["--parameters", json.dumps(dict(parameters)), "--rows", ",".join(rows), "--scratch", folder]
        print(scrub(f"$ python {shlex.join(command[1:])}"), file=log, flush=True)
        answer, last_line, ending = communicate(command, environment(side, scratch, os.environ), limit_s, log)
    print(f"-> {scrub(answer) or ending}", file=log, flush=True)
    if ending:
        return Outcome(side, None, f"{ending}: {last_line}" if last_line else ending)
    return Outcome(side, Measured(**json.loads(answer)))


def communicate(command: list[str], env: dict[str, str], limit_s: float, log: TextIO) -> tuple[str, str, str]:
    """Run `command` to its end or its limit, its stderr going to `log`: (stdout, last line of stderr, how it ended badly or "")."""
    timed_out = threading.Event()
    last_line, code = "", None
    with tempfile.TemporaryFile("w+") as stdout:
        process = subprocess.Popen(
            [*command, "--started-s", repr(time.monotonic())],
            env=env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,  # as bytes: text mode would make a line of every "\r" of a progress bar
            start_new_session=True,  # its loader workers and ranks go with it when the limit is reached
        )

        def end() -> None:
            timed_out.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit_s, end)
        timer.start()
        assert process.stderr is not None
        try:
            for line in process.stderr:
                shown = _last_state(line.decode(errors="replace"))
                last_line = shown or last_line
                print(shown, file=log, flush=True)
            code = process.wait()
        finally:
            timer.cancel()
            if code is None:  # we are being stopped: a side in its own session would run on
                os.killpg(process.pid, signal.SIGKILL)
        stdout.seek(0)
        answer = stdout.read().strip()
    if timed_out.is_set():
        return answer, last_line, f"stopped at its limit of {limit_s:g} s"
    return answer, last_line, f"exit code {code}" if code else ""


def _last_state(line: str) -> str:
    """What a terminal would show of a line that a progress bar wrote over and over."""
    return scrub(line.rstrip().rpartition("\r")[2])
