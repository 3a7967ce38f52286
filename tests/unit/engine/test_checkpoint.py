# SPDX-License-Identifier: AGPL-3.0-or-later
"""A checkpoint on disk is always whole."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from yolov12.engine.checkpoint import staged
from yolov12.errors import RetryableError


def test_files_appear_when_the_block_ends(tmp_path: Path) -> None:
    with staged(tmp_path / "weights") as scratch:
        (scratch / "last.pt").write_bytes(b"new")
        assert not (tmp_path / "weights" / "last.pt").exists()
    assert (tmp_path / "weights" / "last.pt").read_bytes() == b"new"


def test_nothing_else_is_left_beside_them(tmp_path: Path) -> None:
    with staged(tmp_path) as scratch:
        (scratch / "last.pt").write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_leaves_the_old_file_and_asks_for_a_retry(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"old")
    with pytest.raises(RetryableError, match=r"no space left.*intact"), staged(tmp_path) as scratch:
        (scratch / "last.pt").write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "last.pt").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_what_a_killed_process_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".partial-1").mkdir()
    (tmp_path / ".partial-1" / "last.pt").write_bytes(b"half")
    with staged(tmp_path) as scratch:
        (scratch / "last.pt").write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_any_other_failure_leaves_the_old_file_and_is_raised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), staged(tmp_path) as scratch:
        (scratch / "last.pt").write_bytes(b"ne")
        raise ZeroDivisionError
    assert (tmp_path / "last.pt").read_bytes() == b"old"
