# SPDX-License-Identifier: AGPL-3.0-or-later
"""A module whose import is put off is there for whoever uses it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from yolov12.engine.not_yet import put_off

NAME = "put_off_package"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that can be imported, and is not."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(f"from {NAME} import part\nvalue = part.value\n")
    (folder / "part.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield NAME
    for name in (NAME, f"{NAME}.part"):
        sys.modules.pop(name, None)


def test_inside_the_block_importing_it_does_nothing_and_after_it_it_is_imported(package):
    with put_off(package):
        importlib.import_module(package)
    assert not {package, f"{package}.part"} & sys.modules.keys()
    assert importlib.import_module(package).value == 3


@pytest.mark.parametrize(
    "use",
    [
        f"import {NAME}; found = {NAME}.value",
        f"import {NAME}.part; found = {NAME}.part.value",
        f"from {NAME} import value as found",
    ],
)
def test_inside_the_block_who_uses_it_gets_it(package, use):
    names: dict[str, int] = {}
    with put_off(package):
        exec(use, names)  # as other people's code would
    assert names["found"] == 3
    assert sys.modules[package].value == 3


def test_what_is_given_needs_no_import_and_all_else_is_the_modules_own(package):
    with put_off(package, answer=42):
        module = importlib.import_module(package)
        assert module.answer == 42
        assert f"{package}.part" not in sys.modules
        assert module.value == 3
        assert f"{package}.part" in sys.modules
    assert not hasattr(importlib.import_module(package), "answer")


def test_a_thread_that_leaves_takes_nothing_from_one_that_is_inside(package):
    with put_off(package, answer=42):
        inside, leave = threading.Event(), threading.Event()

        def other() -> None:
            with put_off(package, question=6):
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
    kept = sys.modules[package]  # of the thread that is still inside
    assert (kept.answer, kept.question) == (42, 6)
    assert f"{package}.part" not in sys.modules
    leave.set()
    thread.join(10)
    assert package not in sys.modules


def test_who_kept_the_stand_in_gets_what_is_in_the_module(package):
    with put_off(package):
        kept = importlib.import_module(package)
    assert kept.part.value == 3
    with pytest.raises(AttributeError):
        kept.nothing  # noqa: B018  # asking for it is what is tested


def test_what_is_imported_already_stays(package):
    real = importlib.import_module(package)
    with put_off(package):
        assert importlib.import_module(package) is real
    assert sys.modules[package] is real


def test_inside_the_block_it_can_be_looked_for(package):
    with put_off(package):
        spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.name == package
    assert package not in sys.modules
