# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record of a benchmark: rows with every repeat's value, the ratio by medians, and the circumstances.

The form is record.schema.json; docs and the report read nothing else.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.errors import DiskFullError, RecordsError

DECLARED = ("dtype", "deterministic", "optimizer", "workers", "cache")
"""What every side must declare, because a silent difference in one of these would make the comparison worthless."""
RECORDS = Path(__file__).parent / "records"
SCHEMA = Path(__file__).parent / "record.schema.json"


def ratio(better: str, base: list[float], ours: list[float]) -> float | None:
    """How many times better `ours` is than `base`, by medians; None where a side has no values."""
    if not base or not ours:
        return None
    numerator, denominator = (median(ours), median(base)) if better == "higher" else (median(base), median(ours))
    return round(numerator / denominator, 4) if denominator > 0 else None


def row(
    name: str,
    unit: str,
    better: str,
    values: Mapping[str, list[float]],
    note: str = "",
) -> dict[str, Any]:
    """One row from the values of `stock`, `tuned` and `ours`, each in running order."""
    stock, tuned, ours = (list(values.get(side, [])) for side in ("stock", "tuned", "ours"))
    return {
        "name": name,
        "unit": unit,
        "better": better,
        "stock": stock,
        "tuned": tuned,
        "ours": ours,
        "ratio": ratio(better, stock, ours),
        "ratio_tuned": ratio(better, tuned, ours),
        "note": note,
    }


def claim(records: Path, date: str, device: str, benchmark: str, reduced: bool) -> Path:
    """Take the first free name for a record and make its empty log there; no record or log that exists is ever touched.

    `<records>/<day>-<device>/<benchmark>.json`, with `-reduced` where the run is not the claim's and `-2`, `-3`, ... for
    further ones of a day. `date` is an ISO date with or without a time.

    Raises:
        RecordsError: nothing can be written there.
    """
    folder = records / f"{date[:10]}-{device}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _first_free(folder, benchmark + ("-reduced" if reduced else ""))
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else RecordsError
        why = (error.strerror or str(error)).lower()
        raise kind(f"records can not be written to {folder}: {why}; type --records FOLDER") from error


def _first_free(folder: Path, stem: str) -> Path:
    for name in chain([stem], (f"{stem}-{number}" for number in count(2))):
        path = folder / f"{name}.json"
        if not path.exists():
            with suppress(FileExistsError):
                path.with_suffix(".log").open("x").close()
                return path
    raise AssertionError("names never run out")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a whole record or none: aside first, then renamed."""
    aside = path.with_suffix(".json.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def load_all(records: Path = RECORDS) -> list[dict[str, Any]]:
    """All records under `records`, oldest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(records.glob("*/*.json"))]
    return sorted(found, key=lambda content: content["date"])


def changes(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record's parameters was not as its claim says; empty for a full one."""
    parameters = content.get("parameters", {})
    return {name: parameters.get(name) for name in parameters.get("changed", [])}


def newest(contents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of each benchmark on each device, by name. A changed run counts only where there is no full one."""
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for content in sorted(contents, key=lambda content: (not changes(content), content["date"])):
        latest[content["benchmark"], content["device"]] = content
    return [latest[key] for key in sorted(latest)]
