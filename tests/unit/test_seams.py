# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pinned ultralytics is the one that our patches were written against, place by place."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

# Runs in a process of its own where ultralytics is as published: the drop-in is off, and no test has installed a patch.
COMPARE = """
import importlib, inspect, json, sys
from yolov12.seams import digest_of, line_of, _find

rows = []
for module in sys.argv[1:]:
    for seam in importlib.import_module(module).SEAMS:
        row = {"module": module, "file": seam.file, "line": seam.line, "qualname": seam.qualname, "digest": seam.digest}
        try:
            file = inspect.getsourcefile(inspect.unwrap(_find(seam.qualname)))
            found = {"digest": digest_of(seam.qualname), "line": line_of(seam.qualname), "file": file}
        except (ImportError, AttributeError, TypeError) as error:
            found = {"error": repr(error)}
        rows.append(row | {"found": found})
print(json.dumps(rows))
"""


def modules_with_seams() -> list[str]:
    """Dotted names of the modules that assign `SEAMS` at module level."""
    found = []
    for file in sorted((ROOT / "yolov12").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            if any(isinstance(target, ast.Name) and target.id == "SEAMS" for target in targets):
                dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                found.append(dotted.removesuffix(".__init__"))
    return found


def complaint(row: dict) -> str:
    """What moved at one seam, and what to do; empty when nothing did."""
    path = f"{row['qualname'].partition('.')[0]}/{row['file']}"
    place = f"{row['module']}: {row['qualname']} ({path}:{row['line']})"
    found = row["found"]
    if "error" in found:
        return f"{place} is gone, or has no source of its own: {found['error']}"
    if found["digest"] != row["digest"]:
        return f"{place} changed: digest {row['digest']} -> {found['digest']}, now line {found['line']}. Read it again before updating SEAMS."
    if found["line"] != row["line"]:
        return f"{place} moved to line {found['line']}, its text is the same: update the line."
    if not found["file"].endswith(path):
        return f"{place} lies in {found['file']}: update the file."
    return ""


def test_ultralytics_is_unchanged_wherever_we_reach_into_it():
    modules = modules_with_seams()
    assert modules, "no module declares SEAMS"
    environment = os.environ | {"YOLOV12_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, *modules], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    complaints = [text for row in rows if (text := complaint(row))]
    assert not complaints, "ultralytics moved under these seams:\n" + "\n".join(complaints)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"digest": "a" * 12, "line": 7, "file": "/x/ultralytics/engine/trainer.py"}, ""),
        ({"digest": "b" * 12, "line": 9, "file": "/x/ultralytics/engine/trainer.py"}, "Read it again"),
        ({"digest": "a" * 12, "line": 9, "file": "/x/ultralytics/engine/trainer.py"}, "moved to line 9"),
        ({"digest": "a" * 12, "line": 7, "file": "/x/ultralytics/engine/other.py"}, "update the file"),
        ({"error": "AttributeError()"}, "is gone"),
    ],
)
def test_a_seam_that_moved_is_named_with_what_to_do(found, words):
    row = {
        "module": "m",
        "file": "engine/trainer.py",
        "line": 7,
        "qualname": "ultralytics.q",
        "digest": "a" * 12,
        "found": found,
    }
    assert words in complaint(row)
    assert bool(complaint(row)) == bool(words)


def test_the_installed_ultralytics_is_the_pinned_one():
    pinned = yaml.safe_load((ROOT / "env/versions.yaml").read_text())["packages"]["ultralytics"]["version"]
    assert version("ultralytics") == pinned
