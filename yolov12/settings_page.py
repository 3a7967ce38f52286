# SPDX-License-Identifier: AGPL-3.0-or-later
"""The settings as a page: for the terminal, for the documentation, and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yolov12 import settings
from yolov12.declare import Declaration, as_text


@dataclass(frozen=True)
class Row:
    """One setting as it is now."""

    name: str
    """Of the environment variable."""
    value: Any
    origin: str
    """default, environment, command line or script."""


def describe() -> list[Row]:
    """All settings with their values and where these come from.

    Raises:
        UserError: a wrong value.
    """
    now = settings.current()
    return [Row(item.env, getattr(now, name), settings.origin(name)) for name, item in settings.DECLARED.items()]


def as_table(rows: list[Row]) -> str:
    """`rows` in columns, under a heading; a setting without a value is shown as "-"."""
    later = {item.env for item in settings.DECLARED.values() if item.later}
    cells = [
        ("NAME", "VALUE", "ORIGIN"),
        *((row.name, as_text(row.value) or "-", row.origin + _no_effect(row.name in later)) for row in rows),
    ]
    widths = [max(len(line[column]) for line in cells) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in cells)


def as_records(rows: list[Row]) -> list[dict[str, Any]]:
    """`rows` for JSON: numbers and booleans as such, folders as text, lists as lists, null where there is no value."""
    plain = (bool, int, float, type(None))
    return [
        {
            "name": row.name,
            "value": list(row.value)
            if isinstance(row.value, tuple)
            else row.value
            if isinstance(row.value, plain)
            else str(row.value),
            "origin": row.origin,
        }
        for row in rows
    ]


def help_lines() -> Iterator[str]:
    """One line per setting for `--help`: its variable, its default, what it accepts."""
    for item in settings.DECLARED.values():
        yield f"{item.env:29} {as_text(item.default) or '-':5} {item.accepts}{_no_effect(item.later)}"


def long_help_lines() -> Iterator[str]:
    """`help_lines` with what each setting means."""
    for line, item in zip(help_lines(), settings.DECLARED.values(), strict=True):
        yield line
        yield f"    {item.doc}"


def markdown_table() -> str:
    """The table of settings for the documentation; env/render.py puts it there."""
    head = "| Variable | Argument | Default | Values | Meaning |\n|-|-|-|-|-|\n"
    return head + "".join(
        f"| `{item.env}` | {_argument(item)} | {_code(as_text(item.default))} | {item.accepts} | {_meaning(item)} |\n"
        for item in settings.DECLARED.values()
    )


def _no_effect(later: bool) -> str:
    return "   (no effect yet)" if later else ""


def _meaning(item: Declaration) -> str:
    return item.doc + (" No effect yet." if item.later else "")


def _argument(item: Declaration) -> str:
    if not item.on_command_line:
        return ""
    return _code(item.name) + (", script" if item.in_script else "")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
