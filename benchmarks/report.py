# SPDX-License-Identifier: AGPL-3.0-or-later
"""The newest records as markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from benchmarks.record import changes, newest

HEADER = "| row | unit | stock | tuned | ours | ratio | over tuned |\n|---|---|---|---|---|---|---|"


def number(value: float) -> str:
    """Four significant digits, without an exponent for what people read."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread(values: list[float]) -> str:
    """Median, extremes and count: `91.7 (91.2..92.4, n=3)`; a single value stands alone and says so."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{number(values[0])} (n=1)"
    return f"{number(median(values))} {extremes(values)}"


def extremes(values: list[float]) -> str:
    """What stands behind the median of several: `(91.2..92.4, n=3)`."""
    return f"({number(min(values))}..{number(max(values))}, n={len(values)})"


def render(contents: Iterable[dict[str, Any]], age: Callable[[str], str]) -> str:
    """A table per benchmark and device, with circumstances and notes. `age(commit)` says how old the code is."""
    sections = [_section(content, age(content["commit"])) for content in newest(contents)]
    return "\n\n".join(sections) if sections else "No records yet: `python -m benchmarks run NAME` writes one."


def _section(content: dict[str, Any], age: str) -> str:
    changed = ", ".join(f"{name}={_words(value)}" for name, value in changes(content).items())
    facts = [content["date"][:10], content["device"], f"commit {content['commit'][:10]}"]
    facts += [f"**{age}**"] if age else []
    facts += [f"**not as the claim says: {changed}**"] if changed else []
    lines = [f"### {content['benchmark']}", "", ", ".join(facts), "", HEADER]
    lines += [_line(row) for row in content["rows"]]
    notes = [f"- `{row['name']}`: {row['note']}" for row in content["rows"] if row["note"]]
    return "\n".join(lines + (["", *notes] if notes else []) + ["", f"`{content['command']}`"])


def _words(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _line(row: dict[str, Any]) -> str:
    arrow = "higher" if row["better"] == "higher" else "lower"
    ratios = ["-" if row[key] is None else f"{row[key]:.2f}x" for key in ("ratio", "ratio_tuned")]
    sides = [spread(row[side]) for side in ("stock", "tuned", "ours")]
    return f"| {row['name']} | {row['unit']}, {arrow} is better | " + " | ".join(sides + ratios) + " |"
