# SPDX-License-Identifier: AGPL-3.0-or-later
"""Each message that docs/troubleshooting.md quotes is one that the package or the image's entrypoint can say, word for word."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/troubleshooting.md"
HOLE = "\0"
"""Stands in a text of the code for what is put in when it runs."""
FEWEST_WORDS = 2
"""Of a quoted message: less could be found anywhere."""


def texts_of_python(source: str) -> list[str]:
    """Every string of a module but its docstrings; what an f-string puts in is a HOLE."""
    found, module = [], ast.parse(source)
    bare = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module):
        if id(node) in bare:
            continue
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def texts_of_shell(source: str) -> list[str]:
    """What is between double quotes on a line; variables are HOLEs."""
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', source)
    return [re.sub(r"\$\{[^}]*\}|\$\([^)]*\)|\$\w+", HOLE, text) for text in quoted]


def known() -> list[str]:
    found = texts_of_shell((ROOT / "scripts/entrypoint.sh").read_text(encoding="utf-8"))
    for file in sorted((ROOT / "yolov12").rglob("*.py")):
        found += texts_of_python(file.read_text(encoding="utf-8"))
    return found


def quoted() -> list[str]:
    """The first column of the page's tables."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def unknown(messages: list[str], texts: list[str]) -> list[str]:
    """Those messages that no text can become; `...` stands for anything, and must cover each HOLE."""
    found = []
    for message in messages:
        parts = [part for part in (part.strip() for part in message.split("...")) if part]
        pattern = re.compile(rf"[^{HOLE}]*{HOLE}.*".join(map(re.escape, parts)), re.DOTALL)
        if not any(pattern.search(text) for text in texts):
            found.append(message)
    return found


def test_every_quoted_message_is_in_the_code():
    assert unknown(quoted(), known()) == []


def test_messages_are_found_and_long_enough_to_be_looked_for():
    assert len(quoted()) > 45
    assert [one for one in quoted() if len(re.findall(r"[A-Za-z]{2,}", one)) < FEWEST_WORDS] == []
    lines = [
        line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| it says")
    ]
    assert len(lines) == len(quoted())


@pytest.mark.parametrize(
    ("message", "is_there"),
    [
        ("there is no such thing ... here", True),
        ("there is no such thing", True),
        ("there is no such thing as that here", False),
        ("there was no such thing ...", False),
        ("thing ... there", False),
        ("say ... or newer", True),
        ("say older", False),
    ],
)
def test_a_message_that_nothing_says_is_found(message, is_there):
    texts = [*texts_of_python('f"there is no such thing {name} here"'), *texts_of_shell('say "say $least or newer"')]
    assert unknown([message], texts) == ([] if is_there else [message])
