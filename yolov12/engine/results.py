# SPDX-License-Identifier: AGPL-3.0-or-later
"""results.csv, which ultralytics appends a row to at the end of each epoch (engine/trainer.py:986)."""

from __future__ import annotations

import csv
from pathlib import Path

from yolov12.wholefile import replacing


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
