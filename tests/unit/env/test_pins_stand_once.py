# SPDX-License-Identifier: AGPL-3.0-or-later
"""A version or a hash that env/versions.yaml pins stands there alone: a second copy would stay behind when the pin moves.

What a file says about the version that was read or measured is no copy: comments, docstrings, program output in a page, and paragraphs
that speak of a record. Nor is a version among the sample data of a test; a hash is. Versions of two numbers (3.11) are too short to tell
from others and are not looked for.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from env import render

ROOT = Path(__file__).resolve().parents[3]
PINS = ROOT / "env/versions.yaml"
# Made from the pins, or saying what was so on a day.
MAY_HOLD_PINS = (
    "env/versions.yaml",
    "env/locks/",
    "benchmarks/records/",
    "CHANGELOG.md",
    ".github/workflows/images.yml",
    *render.WHOLE_FILES,
)


def pinned(entry: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(value, name of its entry) for each version and hash below a parsed versions.yaml."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from pinned(value, key)
        elif key in {"version", "digest", "sha256", "commit"} and re.fullmatch(
            r"\d+(\.\w+){2,}|(sha256:)?\w{32,}", value
        ):
            yield value, name


def is_hash(value: str) -> bool:
    """Whether a pin is a hash and not a version."""
    return "." not in value


def second_copies(text: str, pins: dict[str, str]) -> list[str]:
    """The pins whose value stands in `text` as a whole, as "torch 2.11.0"."""
    values = "|".join(re.escape(value) for value in pins)
    found = re.findall(rf"(?<![\w.])v?({values})(?!\w|\.\d)", text) if pins else []
    return [f"{pins[value]} {value}" for value in dict.fromkeys(found)]


def statements(name: str, text: str) -> str:
    """What of a file is in force, without what it only tells."""
    if name.endswith(".py"):
        return "\n".join(_strings(ast.parse(text)))
    if name.endswith(".md"):
        text = re.sub(r"<!-- (\S+): generated .*?<!-- \1: end -->", "", text, flags=re.DOTALL)
        text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
        return "\n\n".join(part for part in text.split("\n\n") if not re.search(r"\brecords?\b", part))
    return re.sub(r"(^|\s)#.*$", "", text, flags=re.MULTILINE)


def _strings(tree: ast.AST) -> Iterator[str]:
    told = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def files() -> list[str]:
    """Every file of the repository, also those that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so nothing tells which files are the repository's")
    return sorted(
        {name for name in listed.stdout.split("\0") if (ROOT / name).is_file() and not (ROOT / name).is_symlink()}
    )


def test_no_file_repeats_a_pin():
    pins = dict(pinned(yaml.safe_load(PINS.read_text())))
    copies = []
    for name in files():
        if name.startswith(MAY_HOLD_PINS):
            continue
        looked_for = (
            {value: pin for value, pin in pins.items() if is_hash(value)} if name.startswith("tests/") else pins
        )
        try:
            found = second_copies(statements(name, (ROOT / name).read_text()), looked_for)
        except UnicodeDecodeError:
            continue  # a picture or a font
        copies += [f"{name}: {copy}" for copy in found]
    assert not copies, (
        f"written outside env/versions.yaml (import yolov12.pins, or let env/render.py write it): {copies}"
    )


def test_versions_yaml_itself_says_each_pin_once():
    text = PINS.read_text()
    pins = list(pinned(yaml.safe_load(text)))
    rest = re.sub(r"^ +(version|digest|sha256|commit): .*$", "", text, flags=re.MULTILINE)
    assert second_copies(rest, dict(pins)) == []
    for section in yaml.safe_load(text).values():  # two CUDA lines have a torch each
        names = [name for value, name in pinned(section) if not is_hash(value)]
        assert [name for name in dict.fromkeys(names) if names.count(name) > 1] == []


def test_versions_and_hashes_are_pins_and_words_and_short_versions_are_not():
    parsed = {
        "images": {"base": {"name": "debian:12", "digest": "sha256:" + "ab" * 32}},
        "packages": {"torch": {"version": "2.11.0", "why": "1.2.3 is older"}, "short": {"version": "3.11"}},
        "left_out": {"x": "why"},
    }
    assert dict(pinned(parsed)) == {"sha256:" + "ab" * 32: "base", "2.11.0": "torch"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("yolov12/a.py", 'TORCH = "2.11.0"'),
        ("yolov12/a.py", 'f"torch-{x} is not torch==2.11.0"'),
        ("docker/Dockerfile", "ARG TORCH=2.11.0"),
        ("docker/stages/a.sh", "pip install torch==2.11.0 # the newest"),
        (".github/workflows/a.yml", "  torch: v2.11.0"),
        ("docs/image.md", "The image has torch 2.11.0."),
        ("docs/image.md", "```\n$ yolov12 env\n```\n\nIt has torch 2.11.0.\n"),
        ("pyproject.toml", 'dependencies = ["torch==2.11.0"]'),
    ],
)
def test_a_second_copy_is_found(name, text):
    assert second_copies(statements(name, text), {"2.11.0": "torch"}) == ["torch 2.11.0"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("yolov12/a.py", '"""Follows engine/trainer.py:12 of torch 2.11.0."""\n# of 2.11.0\nx = 1'),
        ("docker/Dockerfile", "# torch 2.11.0 brings it\nARG TORCH"),
        (
            "docs/image.md",
            "<!-- versions: generated by `make render`, do not edit -->\n| torch | 2.11.0 |\n<!-- versions: end -->",
        ),
        ("docs/image.md", "```\n$ docker run IMAGE verify\ntorch 2.11.0\n```"),
        ("README.md", "One H100, torch 2.11.0; records of that day."),
        ("a.txt", "12.11.0 2.11.0.1 2.11.01 x2.11.0"),
    ],
)
def test_what_only_tells_of_a_version_is_no_copy(name, text):
    assert second_copies(statements(name, text), {"2.11.0": "torch"}) == []
