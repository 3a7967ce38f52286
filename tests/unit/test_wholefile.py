# SPDX-License-Identifier: AGPL-3.0-or-later
"""A file on disk is always whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from yolov12.errors import RetryableError, UserError
from yolov12.wholefile import remove_parts, replacing


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    with replacing(file) as part:
        part.write_bytes(b"new")
        assert not file.exists()
    assert file.read_bytes() == b"new"


def test_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    with replacing(tmp_path / "last.pt") as part:
        part.write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_others_may_read_it_as_they_may_any_file_of_this_process(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "last.pt") as part:
            part.write_bytes(b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "last.pt").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file_and_asks_for_a_retry(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    file.write_bytes(b"old")
    with (
        pytest.raises(RetryableError, match=r"no room to save .*last\.pt \(No space left.*intact"),
        replacing(file) as part,
    ):
        part.write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_disk_that_is_full_from_the_start_claims_no_file_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(RetryableError, match="Disk quota exceeded") as caught, replacing(tmp_path / "last.pt"):
        pass
    assert "intact" not in str(caught.value)


def test_the_words_of_torch_for_a_full_disk_are_understood(tmp_path: Path) -> None:
    words = "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
    with pytest.raises(RetryableError, match="no room to save"), replacing(tmp_path / "last.pt"):
        raise RuntimeError(words)


def test_any_other_failure_leaves_the_old_file_and_is_raised_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    file.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(file) as part:
        part.write_bytes(b"ne")
        raise ZeroDivisionError
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"can not write .*gone/last\.pt: no such file"),
        replacing(tmp_path / "gone" / "last.pt"),
    ):
        pass


def test_what_a_killed_process_left_behind_can_be_cleared(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.abc123.part").write_bytes(b"half")
    (tmp_path / "last.pt").write_bytes(b"old")
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
