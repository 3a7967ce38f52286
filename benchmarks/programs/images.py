# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each image of the build: how long it takes with nothing in the builder's cache and with all of it, how large it is, how soon it answers.

Needs a Docker engine and a checkout; the variables of `make build` (BASE_IMAGE, ARCHS, ...) are the caller's. What was downloaded before
stays in the builder's package cache, so a first build on a machine takes longer by its network. What else the machine was doing is in the
note of each first build.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Row
from benchmarks.record import DECLARED
from benchmarks.system import ROOT, cores

BAKE = ROOT / "docker/docker-bake.json"
STARTS = 3


def rows(bake: Mapping[str, Any]) -> tuple[Row, ...]:
    """The rows of a bake file's variants. One whose arguments another one has too shares its layers, and is not built anew."""
    found, seen = [], []
    for variant, target in bake["target"].items():
        name = f"image_{variant.replace('-', '_')}"
        if target["args"] not in seen:
            seen.append(target["args"])
            found.append(Row(f"{name}_cold", "s", "lower", "build with nothing from the builder's cache but downloads"))
        found += [
            Row(f"{name}_cached", "s", "lower", "the same build again, with the image's own verify"),
            Row(f"{name}_size", "GB", "lower", "what the engine says, 1e9 bytes"),
            Row(f"{name}_help", "s", "lower", f"from `docker run` to the first line of --help, median of {STARTS}"),
        ]
    return tuple(found)


def run_side(job: Job) -> Measured:
    """Build and look at each variant of which a row was asked for; one that fails does not hide the others."""
    if not BAKE.is_file():
        raise BenchmarkError("images are built from a checkout, and there is no docker/docker-bake.json here")
    measured = Measured(declared=dict.fromkeys(DECLARED))
    for variant in json.loads(BAKE.read_text())["target"]:
        name = f"image_{variant.replace('-', '_')}"
        asked = [row for row in job.rows if row.rpartition("_")[0] == name]
        try:
            for row in asked:
                kind = row.rpartition("_")[2]
                value, note = _measure(kind, variant)
                measured.values[row] = value
                # Hours lie between the first value and the record: what is measured is not lost with what comes after.
                print(f"{row}: {value:.2f}{', ' + note if note else ''}", file=sys.stderr, flush=True)
                measured.notes |= {row: note} if note else {}
        except subprocess.CalledProcessError as error:
            reason = why_failed(error.stderr or "") or f"exit code {error.returncode}"
            measured.failed |= {row: reason for row in asked if row not in measured.values}
    return measured


def _measure(kind: str, variant: str) -> tuple[float, str]:
    """One value, with what must be known of it."""
    image = f"yolov12:{variant}"
    if kind == "size":
        labels = '{{index .Config.Labels "yolov12.archs"}}|{{index .Config.Labels "yolov12.size_budget_gb"}}'
        size, archs, budget_gb = _output(
            "docker", "image", "inspect", "--format", f"{{{{.Size}}}}|{labels}", image
        ).split("|")
        return int(size) / 1e9, f"budget {budget_gb} GB, {'archs ' + archs if archs else 'no GPU code'}"
    if kind == "help":
        command = ["docker", "run", "--rm", "--network", "none", image, "--help"]
        return sorted(first_line_s(command) for _ in range(STARTS))[STARTS // 2], ""
    cold = kind == "cold"
    before = os.getloadavg()[1]
    built_s = _build_s(variant, cold)
    load = f"the machine's load on {cores()} cores: {before:.1f} before it, {os.getloadavg()[1]:.1f} at its end"
    return built_s, load if cold else ""


def why_failed(said: str) -> str:
    """The sentence that a build ended with: that of the step that failed (after its time, "23.66 fetch: ..."), else the last line of all."""
    lines = said.strip().splitlines()
    of_a_step = re.findall(r"^\d+\.\d+ (.+)$", said, re.MULTILINE)
    return of_a_step[-1] if of_a_step else lines[-1] if lines else ""


def _build_s(variant: str, cold: bool) -> float:
    environment = {**os.environ, "VARIANT": variant, "NO_CACHE": "1" if cold else ""}
    began_s = time.monotonic()
    done = subprocess.run(
        [ROOT / "docker/build.sh"],
        cwd=ROOT,
        env=environment,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    built_s = time.monotonic() - began_s
    sys.stderr.write(done.stderr)
    done.check_returncode()
    return built_s


def first_line_s(command: list[str]) -> float:
    """Seconds until a command has printed its first line.

    Raises:
        subprocess.CalledProcessError: it fails, so that its first line would be that of an error.
    """
    began_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first_s = time.monotonic() - began_s
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return first_s


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


BENCHMARK = Benchmark(
    name="images",
    claim="what each image costs to build, to carry and to start",
    rows=rows(json.loads(Path(BAKE).read_text())) if BAKE.is_file() else (),
    needs="cpu",
    run_side=run_side,
    sides=("ours",),
    repeats=1,
    timeout_s=4 * 3600,
)
