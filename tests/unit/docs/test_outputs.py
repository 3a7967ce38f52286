# SPDX-License-Identifier: AGPL-3.0-or-later
"""What pages show as a program's output stands in the log that the sentence before it names, line by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import system
from tests.unit.docs import blocks
from tests.unit.docs.shapes import ROOT

LOG = re.compile(r"\]\(([^)\s]*benchmarks/records/[^)\s]+\.log)\)")
CUT = "..."


def quoted(page: Path) -> list[tuple[int, list[str], Path]]:
    """(first line, lines, log) of each block of output below a sentence that names a log and ends with a colon."""
    lines = page.read_text(encoding="utf-8").splitlines()
    spans = list(blocks.spans(lines))
    inside = {number for first, last, _ in spans for number in range(first, last)}
    found = []
    for first, last, _ in spans:
        end = first
        while end and (end - 1 in inside or not lines[end - 1] or lines[end - 1].startswith("```")):
            end -= 1
        begin = end
        while begin and lines[begin - 1]:
            begin -= 1
        said = " ".join(lines[begin:end])
        if said.endswith(":") and (log := LOG.search(said)):
            found.append((first + 1, lines[first:last], (page.parent / log[1]).resolve()))
    return found


def stands_in(line: str, log: list[str]) -> bool:
    """Whether a line is one of the log's, but for the indentation, what is cut at dots, and paths, of which a log keeps the last part."""
    parts = [part.strip() for part in system.scrub(line).split(CUT)]
    pattern = re.compile(".*".join(re.escape(part) for part in parts))
    return any(pattern.fullmatch(one) for one in log)


def missing(page: Path) -> list[str]:
    """Each line that its log does not have."""
    found = []
    for first, lines, log in quoted(page):
        said = [line.strip() for line in log.read_text(encoding="utf-8").splitlines()]
        found += [
            f"{page.name}:{number}: {line.strip()}"
            for number, line in enumerate(lines, first)
            if line.strip() and not stands_in(line, said)
        ]
    return found


@pytest.mark.parametrize("page", blocks.pages(ROOT), ids=lambda page: page.stem)
def test_what_a_page_quotes_from_a_log_is_in_it(page: Path) -> None:
    assert missing(page) == []


def test_the_pages_quote_at_all() -> None:
    logs = {log.name for _, _, log in quoted(ROOT / "README.md")}
    assert logs == {"ci.log", "demo_oom.log"}
    assert sum(len(lines) for _, lines, _ in quoted(ROOT / "README.md")) > 50


def test_another_number_a_line_too_many_and_the_next_sentence_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "benchmarks/records/day").mkdir(parents=True)
    (tmp_path / "benchmarks/records/day/run.log").write_text("time  86 s\nsha 0123456789 of .../sbom.json\nmore\n")
    page = tmp_path / "page.md"
    begin = "What it printed ([log](benchmarks/records/day/run.log)):\n\n"
    page.write_text(
        f"{begin}    time  86 s\n    ...\n\n    sha 0123... of /opt/share/sbom.json\n\nWords:\n\n    time  1 s\n"
    )
    assert missing(page) == []
    page.write_text(f"{begin}    time  85 s\n    more\n    not there\n")
    assert missing(page) == ["page.md:3: time  85 s", "page.md:5: not there"]
