# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record of a benchmark: rows with every repeat's value, the ratio by medians, and the circumstances.

The form is record.schema.json; docs and the report read nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

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


def path_of(records: Path, date: str, device: str, benchmark: str, suffix: str = ".json") -> Path:
    """`<records>/<day>-<device>/<benchmark><suffix>`, for an ISO `date` with or without a time."""
    return records / f"{date[:10]}-{device}" / f"{benchmark}{suffix}"


def write(records: Path, content: Mapping[str, Any]) -> Path:
    """Write a whole record or none: aside first, then renamed."""
    path = path_of(records, content["date"], content["device"], content["benchmark"])
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".json.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def load_all(records: Path = RECORDS) -> list[dict[str, Any]]:
    """All records under `records`, oldest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(records.glob("*/*.json"))]
    return sorted(found, key=lambda content: content["date"])


def newest(contents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of each benchmark on each device, by benchmark name."""
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for content in sorted(contents, key=lambda content: content["date"]):
        latest[content["benchmark"], content["device"]] = content
    return [latest[key] for key in sorted(latest)]
