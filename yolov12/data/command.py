# SPDX-License-Identifier: AGPL-3.0-or-later
"""The verb `data`: `data synth FOLDER` writes a small data set, `data check FILE` reads one as training would."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from yolov12.errors import UserError

ACTIONS = ("synth", "check")


def run(words: list[str], options: dict[str, Any]) -> list[str]:
    """The lines that the verb prints.

    Raises:
        UserError: no such action, an argument that it does not take, or what `synth.write` and `check.dataset` raise.
    """
    action, where = [*words, "", ""][:2]
    if action not in ACTIONS and (near := difflib.get_close_matches(action, ACTIONS, n=1)):
        raise UserError(f"there is no `data {action}`: did you mean `data {near[0]}`?")
    if action not in ACTIONS or not where:
        raise UserError("data needs to know what to do: yolov12 data synth FOLDER, or yolov12 data check my.yaml")
    return synth(Path(where), options) if action == "synth" else check(where, options)


def synth(folder: Path, options: dict[str, Any]) -> list[str]:
    """Write the small data set into `folder`."""
    from yolov12.data.synth import write

    if "task" in options:
        raise UserError("data synth draws boxes only: leave task= out")
    for key, value in options.items():
        if not isinstance(value, int):
            raise UserError(f"{key}={value}: type a whole number")
    return [str(write(folder, **options))]


def check(file: str, options: dict[str, Any]) -> list[str]:
    """Read the data set of the yaml `file`."""
    from yolov12.data.check import dataset

    if extra := [key for key in options if key != "task"]:
        raise UserError(f"data check takes task= and no {extra[0]}=")
    return dataset(file, options.get("task") or "detect").lines()
