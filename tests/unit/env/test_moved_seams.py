# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `make bump PKG=ultralytics` says of another ultralytics, read from its files alone."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from env import moved_seams
from yolov12 import seams
from yolov12.seams import Seam

ROOT = Path(__file__).resolve().parents[3]
TRAINER = '''\
import torch

if torch:

    class Trainer:
        @torch.no_grad()
        def save(self):
            """Save."""
            return 1  # a comment of the body


def save():
    return 2
'''
SAVE = "ultralytics.engine.trainer.Trainer.save"
SAVE_TEXT = TRAINER[TRAINER.index("        @torch") : TRAINER.index("\n\ndef save")]


@pytest.fixture
def wheel(tmp_path) -> Path:
    """An unpacked ultralytics of one file."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/trainer.py").write_text(TRAINER)
    return tmp_path


def seam(wheel: Path, qualname: str = SAVE) -> tuple[str, Seam]:
    """The seam as it would stand in a table that was made from the wheel, with its module."""
    asked = Seam("engine/trainer.py", 0, qualname, "")
    found = moved_seams.place(asked, wheel)
    assert found
    return "yolov12/engine/trainer.py", replace(asked, line=found.line, digest=found.digest)


def test_every_table_is_read_and_the_pinned_ultralytics_has_all_of_it_in_place():
    spec = importlib.util.find_spec("ultralytics")
    assert spec
    assert spec.origin
    tables = moved_seams.tables(ROOT)
    modules = {module for module, _ in tables}
    assert {"yolov12/engine/trainer.py", "yolov12/data/adapter.py"} <= modules
    assert "yolov12/engine/no_compiler.py" not in modules  # its seams are in torch: tests/unit/test_seams.py
    assert moved_seams.moved(tables, Path(spec.origin).parent) == []


@pytest.mark.parametrize("module", ["ultralytics.utils.loss", "ultralytics.utils.ops"])
def test_a_definition_is_what_inspect_sees(module):
    loaded = importlib.import_module(module)
    assert loaded.__file__
    package = Path(loaded.__file__).parents[1]
    file = Path(loaded.__file__).relative_to(package).as_posix()
    defined = [one for one in vars(loaded).values() if inspect.isclass(one) or inspect.isfunction(one)]
    own = [one.__name__ for one in defined if one.__module__ == module]
    assert len(own) > 10
    for name in own:
        found = moved_seams.place(Seam(file, 0, f"{module}.{name}", ""), package)
        assert found == (seams.line_of(f"{module}.{name}"), seams.digest_of(f"{module}.{name}"))


def test_nothing_is_said_of_a_seam_that_stayed(wheel):
    assert moved_seams.moved([seam(wheel)], wheel) == []


def test_a_definition_begins_with_its_decorators_and_is_found_inside_an_if(wheel):
    assert seam(wheel)[1].line == TRAINER[: TRAINER.index("@torch")].count("\n") + 1


def test_a_method_is_not_taken_for_the_function_of_the_same_name(wheel):
    assert seam(wheel, "ultralytics.engine.trainer.save")[1].line == TRAINER.count("\n") - 1


def test_a_seam_whose_text_changed_is_named_with_its_new_place(wheel):
    before = seam(wheel)
    (wheel / "engine/trainer.py").write_text("# new\n" + TRAINER.replace("return 1", "return 3"))
    (said,) = moved_seams.moved([before], wheel)
    assert said.startswith(f"changed: {SAVE} (engine/trainer.py:6; yolov12/engine/trainer.py), now line 7, digest ")


def test_a_seam_that_only_moved_down_is_told_from_one_that_changed(wheel):
    before = seam(wheel)
    (wheel / "engine/trainer.py").write_text("# new\n" + TRAINER)
    assert moved_seams.moved([before], wheel) == [
        f"only its line moved: {SAVE} (engine/trainer.py:6; yolov12/engine/trainer.py), now line 7"
    ]


@pytest.mark.parametrize(
    "text", ["", TRAINER.replace("def save(self)", "def store(self)"), None], ids=["empty", "renamed", "no file"]
)
def test_a_seam_that_is_no_more_is_gone(wheel, text):
    before = seam(wheel)
    if text is None:
        (wheel / "engine/trainer.py").unlink()
    else:
        (wheel / "engine/trainer.py").write_text(text)
    (said,) = moved_seams.moved([before], wheel)
    assert said.startswith(f"gone: {SAVE}")


def test_a_table_that_can_not_be_read_is_an_error_and_no_silence(tmp_path):
    (tmp_path / "yolov12").mkdir()
    (tmp_path / "yolov12/a.py").write_text("SEAMS = make_seams()\n")
    with pytest.raises(ValueError, match=r"yolov12/a\.py: SEAMS is not a tuple"):
        moved_seams.tables(tmp_path)
