# SPDX-License-Identifier: AGPL-3.0-or-later
"""How this program is called in the commands that it proposes, and what of a library's words is passed over."""

from __future__ import annotations

import logging
import sys

import pytest

from yolov12 import log


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A virtual environment with the program in it, which the shell does not find."""
    for name in ("python", "yolov12"):
        (tmp_path / "venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv" / "bin" / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


def test_the_program_is_typed_by_its_path_where_the_shell_does_not_find_it(environment, monkeypatch):
    assert log.program() == f"{environment}/venv/bin/yolov12"
    monkeypatch.chdir(environment)
    assert log.program() == "venv/bin/yolov12"


def test_the_program_is_typed_by_its_name_where_the_shell_finds_it(environment, monkeypatch):
    monkeypatch.setenv("PATH", f"{environment}/venv/bin")
    assert log.program() == "yolov12"


def test_another_program_of_that_name_does_not_count(environment, monkeypatch):
    (environment / "yolov12").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(environment))
    assert log.program() == f"{environment}/venv/bin/yolov12"


def test_without_a_program_beside_the_interpreter_the_name_has_to_do(environment):
    (environment / "venv" / "bin" / "yolov12").unlink()
    assert log.program() == "yolov12"


def test_one_message_of_a_library_is_passed_over_and_no_other(caplog):
    library = logging.getLogger("a.library")
    with log.without("Found no", "a.library"):
        library.warning("Found no %s", "GPU")
        library.warning("Disk full")
        logging.getLogger("another").warning("Found no disk")
    library.warning("Found no cable")
    assert caplog.messages == ["Disk full", "Found no disk", "Found no cable"]


def test_a_message_is_let_through_once_it_is_true(caplog):
    found: list[int] = []
    with log.without("Saved", "a.library", unless=lambda: bool(found)):
        logging.getLogger("a.library").warning("Saved %d pictures", 0)
        found.append(1)
        logging.getLogger("a.library").warning("Saved %d pictures", 1)
    assert caplog.messages == ["Saved 1 pictures"]
