# SPDX-License-Identifier: AGPL-3.0-or-later
"""Links of the pages lead to files and headings that are there, each page is linked from README.md, and Python in them can be parsed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.unit.docs import blocks

ROOT = Path(__file__).resolve().parents[3]
PAGES = [page.relative_to(ROOT).as_posix() for page in blocks.pages(ROOT)]


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str):
    assert broken(ROOT / page) == []


def test_a_broken_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title: with `code`\n[a](page.md#a-title-with-code) [b](#no) [c](gone.md) [d](https://example.org)\n"
    )
    assert broken(page) == ["#no", "gone.md"]


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {page for page in PAGES if page.startswith("docs/")} - linked == set()


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_can_be_parsed(page: str):
    for program in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(program, filename=page)
