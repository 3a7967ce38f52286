# SPDX-License-Identifier: AGPL-3.0-or-later
"""What another version of ultralytics moves under the seams (yolov12/seams.py), found in its unpacked wheel without importing it."""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path
from typing import NamedTuple

from yolov12.seams import Seam

Definable = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """Where a class or function stands in a file, and the digest of its text as yolov12.seams makes it."""

    line: int
    digest: str


def tables(root: Path) -> list[tuple[str, Seam]]:
    """(module, seam) for every seam of the checkout at `root` in ultralytics, read from the text of its modules; there are some in torch, too.

    Raises:
        ValueError: a table holds something else than `Seam("file", line, "qualname", "digest")`.
    """
    found = []
    for path in sorted((root / "yolov12").rglob("*.py")):
        module = path.relative_to(root).as_posix()
        table = _value_of("SEAMS", ast.parse(path.read_text(encoding="utf-8")))
        entries = table.elts if isinstance(table, ast.Tuple) else []
        calls = [entry for entry in entries if isinstance(entry, ast.Call)]
        if table is not None and (not calls or len(calls) < len(entries)):
            raise ValueError(f"{module}: SEAMS is not a tuple of Seam(...)")
        found += [(module, Seam(*(ast.literal_eval(argument) for argument in call.args))) for call in calls]
    return [(module, seam) for module, seam in found if seam.qualname.startswith("ultralytics.")]


def moved(seams: list[tuple[str, Seam]], package: Path) -> list[str]:
    """A sentence for each seam that is not as it was in the `ultralytics` folder at `package`."""
    said = [_complaint(module, seam, place(seam, package)) for module, seam in seams]
    return [sentence for sentence in said if sentence]


def place(seam: Seam, package: Path) -> Place | None:
    """Where the class or function is that a seam names, as `inspect.getsource` would see it there; None if it is gone."""
    path = package / seam.file
    dotted = f"ultralytics.{seam.file.removesuffix('.py').replace('/', '.')}.".replace(".__init__.", ".")
    if not path.is_file() or not seam.qualname.startswith(dotted):
        return None
    text = path.read_text(encoding="utf-8")
    found: Definable | None = None
    for name in seam.qualname.removeprefix(dotted).split("."):
        found = _defined(name, found or ast.parse(text))
        if found is None:
            return None
    assert found is not None
    first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
    source = "".join(
        inspect.getblock(text.splitlines(keepends=True)[first - 1 :])
    )  # with comments at its end, which the tree has not
    return Place(first, hashlib.sha256(source.encode()).hexdigest()[:12])


def _defined(name: str, scope: ast.AST) -> Definable | None:
    """The outermost definition called `name` in `scope`: ast.walk goes level by level, into `if` and `try` too."""
    inner = (node for node in ast.walk(scope) if node is not scope and isinstance(node, Definable))
    return next((node for node in inner if node.name == name), None)


def _value_of(name: str, tree: ast.Module) -> ast.expr | None:
    """What the module assigns to `name`."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                return node.value
    return None


def _complaint(module: str, seam: Seam, found: Place | None) -> str:
    named = f"{seam.qualname} ({seam.file}:{seam.line}; {module})"
    if found is None:
        return f"gone: {named}"
    if found.digest != seam.digest:
        return f"changed: {named}, now line {found.line}, digest {found.digest}"
    return "" if found.line == seam.line else f"only its line moved: {named}, now line {found.line}"
