# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/architecture.md names each room of the package and each folder of the checkout, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def first_column(heading: str) -> set[str]:
    """What stands between backticks in the first column of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_room_of_the_package_is_on_the_page():
    files = {file.name for file in (ROOT / "yolov12").glob("*.py")} - {"__init__.py"}
    folders = {f"{file.parent.name}/" for file in (ROOT / "yolov12").glob("*/__init__.py")}
    assert first_column("Rooms") == files | folders


def test_every_folder_of_the_checkout_is_on_the_page():
    tracked = "benchmarks deploy docker docs env examples scripts tests yolov12"
    folders = {f"{name}/" for name in tracked.split()}
    assert first_column("Around the package") == folders - {"yolov12/"}
    assert all((ROOT / name).is_dir() for name in folders)
