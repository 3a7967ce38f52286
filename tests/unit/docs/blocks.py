# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands that README.md, CONTRIBUTING.md, docs/*.md and the files of deploy/ show: those of code blocks, and those between backticks.

A block is what is indented by four spaces or fenced; an empty line ends it. What it holds is told by its first word: a program makes it commands,
a word with a colon or one of TEXT makes it something else, and any other word is an error, so that no command goes unnoticed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (
    "cosign diff docker export kubectl make pip python python3 sbatch source srun torchrun trtexec yolo yolov12".split()
)
"""Besides files of the repository and of its .venv."""
TEXT = frozenset("--- (environment) FROM alone data demo e mean ok safe settings, variance".split())
"""First words of blocks that are output, arithmetic or a Dockerfile. Words that end with a colon need no entry."""
SHELL = ("bash", "console", "sh", "shell")
"""Languages of fenced blocks."""
INLINE = re.compile(
    r"`((?:YOLOV12_\w+=\S+ )*(?:yolov12|make|docker run|docker/build\.sh|python -m benchmarks|python train\.py) [^`]+)`"
)

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    place: str
    """file:line."""
    text: str
    """As it is typed, on one line and without the comment behind it."""
    said: str = ""
    """What the page says around it: the comment behind it, the one above it in the block, and the paragraph before the block."""

    @property
    def words(self) -> list[str]:
        """As a shell splits it; operators such as && are words of their own."""
        return split(self.text)


def split(text: str) -> list[str]:
    """Words of a line of shell, without its comment."""
    reader = shlex.shlex(text, posix=True, punctuation_chars="&|;")
    reader.whitespace_split = True
    return list(reader)


def pages(root: Path) -> list[Path]:
    """Every page that tells users what to type."""
    folders = ("docs", "deploy", "examples")
    more = [page for folder in folders for page in sorted((root / folder).rglob("*.md"))]
    return [root / "README.md", root / "CONTRIBUTING.md", *more]


def of_blocks(page: Path, root: Path) -> Iterator[Command]:
    """The commands of a page's code blocks.

    Raises:
        ValueError: the first word of a block is neither a program nor a known other word; with file and line.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    for first, last, language in spans(lines):
        block = [line.strip() for line in lines[first:last]]
        if (language and language not in SHELL) or not _is_shell(block, f"{page.name}:{first + 1}", root):
            continue
        before = _paragraph(lines[: first - bool(language)])
        yield from _commands(block, page.relative_to(root).as_posix(), first + 1, before)


def of_sentences(page: Path, root: Path) -> Iterator[Command]:
    """The commands between backticks in a page's text and tables; a span may go on in the next line."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for first, last, _ in spans(lines):
        lines[first:last] = [""] * (last - first)
    text = "\n".join(lines)
    for found in INLINE.finditer(text):
        if "\n\n" not in found[0] and "NAME" not in found[1].split():  # a template, that one
            place = f"{page.relative_to(root)}:{text.count(chr(10), 0, found.start()) + 1}"
            yield Command(place, " ".join(found[1].split()))


def of_manifests(root: Path) -> Iterator[Command]:
    """The commands in the heads of the files of deploy/: comments that are indented by three spaces."""
    for file in sorted((root / "deploy").rglob("*.*")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else (), 1):
            if found := re.fullmatch(r"#   (\S.*)", line):
                yield Command(f"{file.relative_to(root)}:{number}", found[1])


def spans(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """(first line, line behind the last, language) of each block, without its fences; "" for indented ones."""
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            yield number + 1, end, line.removeprefix("```").strip() or "text"
            number = end
        elif line.startswith("    "):
            end = next((i for i in range(number, len(lines)) if not lines[i].startswith("    ")), len(lines))
            yield number, end, ""
            number = end - 1
        number += 1


def _is_shell(block: list[str], place: str, root: Path) -> bool:
    words = next((line for line in block if not line.startswith("#")), "").partition(" #")[0].split()
    word = next((word for word in words if not _ASSIGNMENT.fullmatch(word) or word.endswith(":")), "")
    if not word or word in PROGRAMS or _is_file(word, root):  # "": assignments alone
        return True
    if word.endswith(":") or word in TEXT:
        return False
    raise ValueError(
        f"{place}: is {word!r} a program? tests/unit/docs/blocks.py knows neither a program nor a text that begins so"
    )


def _is_file(word: str, root: Path) -> bool:
    return "/" in word and (word.startswith(".venv/bin/") or (root / word).is_file())


def _commands(block: list[str], page: str, first: int, before: str) -> Iterator[Command]:
    above, text, begun = "", "", first
    for number, line in enumerate(block, first):
        if line.startswith("#"):
            above = line
            continue
        begun = begun if text else number
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            typed, _, comment = text.partition(" #")
            yield Command(f"{page}:{begun}", typed.strip(), f"{comment}\n{above}\n{before}")
            text = ""


def _paragraph(lines: list[str]) -> str:
    """The last paragraph of these lines, behind empty ones; "" where they end with another block."""
    text = "\n".join(lines).rstrip().rpartition("\n\n")[2]
    return "" if text.startswith(("    ", "```")) else " ".join(text.split())
