# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where may be written. The refusals are such that root meets them too: a folder below a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolov12 import folders
from yolov12.errors import RetryableError, UserError


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_nearest_parent_and_not_made(tmp_path):
    folders.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused_with_the_users_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^project=file: can not write to .*/file/runs \(.*/file: not a folder\)"):
        folders.check_writable(tmp_path / "file" / "runs", "project=file")


def test_without_the_users_words_the_error_names_an_argument_that_there_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"name one with project=FOLDER$"):
        folders.check_writable(tmp_path / "file" / "runs")
    with pytest.raises(UserError, match=r"name one with out=FOLDER$"):
        folders.check_writable(tmp_path / "file" / "runs", argument="out")


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert folders.why_not_writable(tmp_path / "file") == "not a folder"


def test_a_full_disk_is_worth_a_retry(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(folders.FULL[0], "No space left on device")

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", full)
    with pytest.raises(RetryableError, match="No space left on device: make room"):
        folders.why_not_writable(tmp_path)


def test_a_cache_may_be_full_where_that_is_no_failure(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(folders.FULL[0], "No space left on device")

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", full)
    with pytest.raises(RetryableError, match="make room"):
        folders.choose_cache(tmp_path, "typed")
    assert folders.choose_cache(tmp_path, "typed", may_be_full=True) == (tmp_path, "typed")
    monkeypatch.setattr(Path, "mkdir", full)
    assert folders.choose_cache(tmp_path / "new", "typed", may_be_full=True) == (tmp_path / "new", "typed")


def test_a_folder_of_the_kernel_in_which_nothing_can_be_made_says_so():
    assert folders.why_not_writable(Path("/proc")) == "no files can be made there"


def test_a_read_only_folder_says_so(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", read_only)
    assert folders.why_not_writable(tmp_path) == "read-only file system"


def test_runs_go_to_the_workspace_if_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path)
    assert folders.runs_folder()[0] == tmp_path / "runs"


def test_runs_go_below_the_current_folder_without_a_workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    runs, why = folders.runs_folder()
    assert runs == tmp_path / "runs"
    assert why == (
        f"below the current folder, as everywhere but in a container with a folder mounted on {tmp_path}/nowhere; nothing needs doing"
    )


def test_where_a_workspace_can_not_be_written_it_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "file")
    monkeypatch.chdir(tmp_path)
    why = f"{tmp_path}/file can not be written to (not a folder); mount a folder of yours there to have them in it"
    assert folders.runs_folder() == (tmp_path / "runs", why)


def test_a_workspace_whose_cache_belongs_to_someone_else_is_passed_over_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / ".yolov12").touch()  # a file in the way stands for a folder without permission, which root would have
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path)
    folder, reason = folders.choose_cache(None, "")
    assert folder != tmp_path / ".yolov12"
    assert f"temporary: {tmp_path}/.yolov12: file exists" in reason


@pytest.fixture
def no_workspace(tmp_path, monkeypatch):
    """A home, and no /workspace, as outside a container."""
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_outside_a_container_the_cache_lies_in_the_home_folder(no_workspace):
    assert folders.choose_cache(None, "") == (no_workspace / ".cache" / "yolov12", "YOLOV12_CACHE_DIR changes it")


def test_a_cache_folder_that_the_user_named_for_all_programs_is_used(no_workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert folders.choose_cache(None, "")[0] == tmp_path / "caches" / "yolov12"


def test_without_a_home_that_can_be_written_the_cache_is_temporary_and_nothing_is_said_about_containers(no_workspace):
    no_workspace.touch()
    folder, reason = folders.choose_cache(None, "")
    assert folder.name.startswith("yolov12-")
    assert reason.startswith("temporary: ")
    assert reason.endswith("; to keep it, set YOLOV12_CACHE_DIR")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path)
    (tmp_path / ".yolov12").touch()
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"yolov12-{os.getuid()}"


def test_the_temporary_cache_is_private_and_the_same_for_every_process(temporary):
    assert folders.choose_cache(None, "")[0] == temporary
    assert folders.choose_cache(None, "")[0] == temporary
    assert temporary.stat().st_mode & 0o777 == 0o700


def test_a_temporary_cache_that_others_can_write_to_is_not_used(temporary):
    temporary.mkdir()
    temporary.chmod(0o777)
    assert folders.choose_cache(None, "")[0] != temporary


def test_a_temporary_cache_that_is_a_link_is_not_used(temporary, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    temporary.symlink_to(tmp_path / "elsewhere")
    assert folders.choose_cache(None, "")[0] != temporary


def test_no_writable_folder_at_all_says_what_to_mount(monkeypatch, no_workspace):
    def nowhere():
        raise FileNotFoundError("No usable temporary directory found")

    no_workspace.touch()
    monkeypatch.setattr(folders.tempfile, "gettempdir", nowhere)
    with pytest.raises(UserError, match="--tmpfs /tmp"):
        folders.choose_cache(None, "")
