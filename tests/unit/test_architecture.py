# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which room may look into which, who may touch ultralytics, and what `import yolov12` may cost. Read from the sources, nothing is run but that."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "yolov12"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room is a folder or file directly in yolov12/. The first group may be used by all, the second knows nothing of each other; the last is
# what reads a command line.
FOUNDATION = {
    "settings",
    "settings_page",
    "recipes",
    "declare",
    "compiled",
    "uncollected",
    "folders",
    "wholefile",
    "mistakes",
    "errors",
    "log",
    "seams",
    "pins",
    "sigterm",
    "driver",
}
ROOMS = {"model", "memory", "precision", "data", "distributed", "export"}
MAY_IMPORT = {
    **dict.fromkeys(FOUNDATION, FOUNDATION),
    **{room: FOUNDATION | {room} for room in ROOMS},
    "engine": FOUNDATION | ROOMS | {"engine"},
    "compat": FOUNDATION | {"engine"},
    "__init__": {"compat"},
}
MAY_IMPORT["tools"] = FOUNDATION | ROOMS | {"engine", "compat", "tools"}
COMMAND_LINE = {"cli", "verbs", "arguments", "arguments_page", "early", "values", "verb_table"}
MAY_IMPORT |= dict.fromkeys(COMMAND_LINE, MAY_IMPORT["tools"] | COMMAND_LINE)

MAY_CHANGE_ULTRALYTICS = ("engine/", "model/", "compat.py", "data/adapter.py", "export/adapter.py")

# Modules over 400 lines, each with the reason why it is one.
LONG_FILES: dict[str, str] = {
    "settings.py": "one declaration for each setting, and how they are read: they are read together",
}


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(tree: ast.AST) -> set[str]:
    """The rooms that a module imports anywhere in it, also inside functions."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("yolov12.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "yolov12":
            inside = node.module.split(".")[1:]
            # `from yolov12 import YOLO` goes through compat; `__version__` costs nothing and is everyone's.
            from_root = {"compat" if alias.name == "YOLO" else alias.name for alias in node.names} - {"__version__"}
            rooms |= {inside[0]} if inside else from_root
    return rooms


def names_from_ultralytics(tree: ast.AST) -> set[str]:
    """Local names that are bound by an import of ultralytics or of something in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias for alias in node.names if alias.name.split(".")[0] == "ultralytics"]
            names |= {(alias.asname or "ultralytics") for alias in found}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ultralytics":
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def root_name(node: ast.AST) -> str:
    """`a` of `a.b["c"].d`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def changes_of_ultralytics(tree: ast.AST) -> list[int]:
    """Lines that subclass something of ultralytics or assign to an attribute of it."""
    foreign = names_from_ultralytics(tree)
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            touched = list(node.bases)
        elif isinstance(node, ast.Assign):
            touched = [target for target in node.targets if isinstance(target, ast.Attribute | ast.Subscript)]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            touched = [node.target] if isinstance(node.target, ast.Attribute | ast.Subscript) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            touched = node.args[:1]
        else:
            continue
        if any(root_name(target) in foreign for target in touched):
            lines.append(node.lineno)
    return lines


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_room_imports_only_what_the_arrows_allow(file):
    room = room_of(file)
    assert room in MAY_IMPORT, f"{room} is a new room: add it to MAY_IMPORT and to CONTRIBUTING.md"
    forbidden = rooms_imported(parse(file)) - MAY_IMPORT[room]
    assert not forbidden, f"{name_of(file)} imports {sorted(forbidden)}; {room} may import {sorted(MAY_IMPORT[room])}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_ultralytics_is_changed_only_where_a_seam_says_so(file):
    tree = parse(file)
    lines = changes_of_ultralytics(tree)
    if not lines:
        return
    assert name_of(file).startswith(MAY_CHANGE_ULTRALYTICS), f"{name_of(file)} changes ultralytics in lines {lines}"
    tables = [target.id for node in tree.body for target in targets_of(node) if isinstance(target, ast.Name)]
    assert "SEAMS" in tables, f"{name_of(file)} changes ultralytics in lines {lines} and declares no SEAMS"


def targets_of(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.AnnAssign):
        return [node.target]
    return node.targets if isinstance(node, ast.Assign) else []


def test_the_check_sees_a_patch_a_subclass_and_a_setattr():
    source = "\n".join(
        [
            "import ultralytics.nn.tasks as tasks",
            "from ultralytics.engine.trainer import BaseTrainer as Base",
            "tasks.torch_load = None",
            "class Ours(Base): ...",
            "setattr(tasks, 'x', 1)",
            "mine = tasks.y",
        ]
    )
    assert changes_of_ultralytics(ast.parse(source)) == [3, 4, 5]


def test_the_check_sees_an_import_inside_a_function():
    assert rooms_imported(ast.parse("def f():\n    from yolov12.engine.step import Step")) == {"engine"}
    assert rooms_imported(ast.parse("from yolov12 import YOLO, __version__")) == {"compat"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_over_400_lines_has_a_reason(file):
    lines = len(file.read_text().splitlines())
    assert lines <= 400 or name_of(file) in LONG_FILES, (
        f"{name_of(file)} has {lines} lines: split it, or say in LONG_FILES why not"
    )


@pytest.mark.parametrize("folder", ["yolov12", "env", "docker", "scripts", "benchmarks", "tests", "examples"])
def test_every_source_file_names_its_licence_and_is_ascii(folder):
    for file in (ROOT / folder).rglob("*"):
        if file.suffix not in {".py", ".sh", ".bats"}:
            continue
        text = file.read_text()
        assert "# SPDX-License-Identifier: AGPL-3.0-or-later" in text.splitlines()[:2], f"{file} has no licence line"
        assert text.isascii(), f"{file}: {sorted({c for c in text if not c.isascii()})}"


def test_the_drop_in_loads_nothing_but_two_modules_of_ours():
    """It runs at the start of every interpreter of the environment, where `typing` or `re` alone would cost milliseconds."""
    code = "\n".join(
        [
            "import os, site, sys",  # what every start has loaded; -S so that no other .pth file adds to it
            f"sys.path.insert(0, {str(ROOT)!r})",
            "before = set(sys.modules)",
            (ROOT / "env/yolov12_dropin.pth").read_text(),
            "print(*sorted(set(sys.modules) - before))",
        ]
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"__future__"} == {"yolov12", "yolov12.compat"}


def test_the_drop_in_line_is_silent_when_the_package_was_removed(tmp_path):
    (tmp_path / "dropin.pth").write_text((ROOT / "env/yolov12_dropin.pth").read_text())
    code = f"import site; site.addsitedir({str(tmp_path)!r}); print('started')"
    # -S: an installed yolov12 is not on the path then.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("started\n", "")
