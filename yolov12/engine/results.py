# SPDX-License-Identifier: AGPL-3.0-or-later
"""results.csv, which ultralytics appends a row to at the end of each epoch (engine/trainer.py:986)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from yolov12.seams import Seam
from yolov12.wholefile import replacing

SEAMS = (
    Seam("engine/trainer.py", 751, "ultralytics.engine.trainer.BaseTrainer.read_results_csv", "869330466c9f"),
    Seam("engine/trainer.py", 986, "ultralytics.engine.trainer.BaseTrainer.save_metrics", "aec243b661fc"),
)

WHOLE = re.compile(r"-?\d{1,15}")
NUMBER = re.compile(r"-?\d{1,15}(\.\d+)?(e[-+]\d+)?")
"""What `%.6g` writes of a number that is finite."""


def columns(path: Path) -> dict[str, list[int] | list[float]] | None:
    """The table as ultralytics reads it for a checkpoint (engine/trainer.py:751), without importing polars, which it reads it with.

    Returns:
        Each column's values, whole numbers where all of them are; None where something else than finite numbers stands in it, since polars
        has its own ways with that.
    """
    try:
        header, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return None
    whole_table = len(set(header)) == len(header) > 1 and all(len(row) == len(header) for row in rows)
    if not rows or not whole_table or '"' in "".join(header):
        return None
    found: dict[str, list[int] | list[float]] = {}
    for name, *texts in zip(header, *rows, strict=True):
        if all(map(WHOLE.fullmatch, texts)):
            found[name] = [int(text) for text in texts]
        elif all(map(NUMBER.fullmatch, texts)):
            found[name] = [float(text) for text in texts]
        else:
            return None
    return found


def drop_rows_after(path: Path, epochs: int) -> int:
    """Remove the rows of epochs that a resumed run will do again: a run may end between writing a row and its checkpoint.

    Args:
        path: the table; it need not exist.
        epochs: how many epochs the checkpoint holds. Rows count from 1.

    Returns:
        How many rows were removed.
    """
    if not path.is_file():
        return 0
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if (number := _epoch(line)) is None or number <= epochs]
    if len(kept) < len(lines):
        with replacing(path) as part:
            part.write_text("".join(kept))
    return len(lines) - len(kept)


def _epoch(line: str) -> int | None:
    """The number in the first column; None for the header."""
    first = next(csv.reader([line]), [""])[0].strip()
    return int(first) if first.isdigit() else None
