# SPDX-License-Identifier: AGPL-3.0-or-later
"""The registry of checks, and their results as lines for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

from yolov12 import __version__
from yolov12.tools.doctor import gpu_checks, install_checks, machine_checks
from yolov12.tools.doctor.look import look
from yolov12.tools.doctor.result import STATUSES, Result, fail, worst
from yolov12.tools.doctor.world import World

SCHEMA = 1
"""Of the JSON. Fields may be added under the same number; none is renamed or taken away."""

Check = Callable[[World], Iterator[Result]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", install_checks.known_settings),
    ("driver", gpu_checks.driver),
    ("torch", gpu_checks.torch_sees),
    ("gpu code", gpu_checks.gpu_code),
    ("attention", gpu_checks.attention),
    ("clocks", gpu_checks.clocks),  # right after attention, which has warmed the GPU
    ("all-reduce", gpu_checks.all_reduce),
    ("shm", machine_checks.shm),
    ("limits", machine_checks.limits),
    ("cpus", machine_checks.cpus),
    ("workspace", machine_checks.workspace),
    ("disk", machine_checks.disks),
    ("loader", machine_checks.loader),
    ("versions", install_checks.versions),
    ("cache", install_checks.cache),
    ("offline", install_checks.offline),
    ("weights", install_checks.weights),
)
"""In the order of the report, by the names of docs/doctor.md."""


def examine(world: World, checks: Iterable[tuple[str, Check]] = CHECKS) -> Iterator[Result]:
    """Every result, as soon as it is there. A check that can not look fails, and the others go on."""
    for name, check in checks:
        try:
            yield from check(world)
        except Exception as error:  # noqa: BLE001  # whatever one check meets, the report of the others must come
            why = f"the check itself could not look: {str(error) or type(error).__name__}"
            yield fail(name, type(error).__name__, why, "yolov12 verify   # says what is installed")


def lines(result: Result) -> Iterator[str]:
    """What a person reads of one result; why and what to type only where something is to be done."""
    subject = f"{result.subject}: " if result.subject else ""
    value = result.value if result.status != "skipped" else "; ".join(filter(None, [result.why, result.value]))
    yield f"{result.status.upper() if result.status == 'fail' else result.status:8} {result.name:11} {subject}{value}"
    indent = " " * 21
    if result.status == "ok" and result.why:
        yield from textwrap.wrap(result.why, 130, initial_indent=indent, subsequent_indent=indent)
    if result.to_type:
        yield from textwrap.wrap(f"why: {result.why}", 130, initial_indent=indent, subsequent_indent=indent)
        yield f"{indent}type: {result.to_type}"


def summary(results: Iterable[Result]) -> str:
    """How many of each, from bad to good."""
    found = [result.status for result in results]
    return ", ".join(f"{found.count(status)} {status}" for status in reversed(STATUSES) if status in found)


def document(results: Iterable[Result]) -> dict[str, Any]:
    """What `--json` prints."""
    results = list(results)
    return {
        "schema": SCHEMA,
        "yolov12": __version__,
        "status": worst(results),
        "checks": [
            {
                "name": one.name,
                "subject": one.subject,
                "status": one.status,
                "value": one.value,
                "why": one.why,
                "to_type": one.to_type,
            }
            for one in results
        ],
    }


def main(options: Mapping[str, Any]) -> int:
    """Look, print, and return the exit code: 1 where something failed, else 0.

    Raises:
        UserError: `data=` names no data set.
    """
    results = []
    if options.get("json"):
        # ultralytics greets whoever imports it first, on what is to be one document.
        with redirect_stdout(sys.stderr):
            results = list(examine(look(options)))
        print(json.dumps(document(results), indent=1))
    else:
        for result in examine(look(options)):
            results.append(result)
            print("\n".join(lines(result)), flush=True)
        print(f"\n{summary(results)}")
    return 1 if worst(results) == "fail" else 0
