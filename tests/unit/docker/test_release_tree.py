# SPDX-License-Identifier: AGPL-3.0-or-later
"""The hash of an image's tree follows what is in it, and neither times nor order."""

from __future__ import annotations

import io
import tarfile

import pytest

from docker import tree

FILES = {"etc/motd": b"hello", "opt/tool": b"#!/bin/sh"}


def archive(
    files: dict[str, bytes],
    mtime: int = 0,
    mode: int = 0o644,
    owner: int = 0,
    links: dict[str, tuple[bytes, str]] | None = None,
) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode, entry.uid = len(content), mtime, mode, owner
            tar.addfile(entry, io.BytesIO(content))
        for name, (kind, target) in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    stream.seek(0)
    return stream


def test_times_and_order_do_not_count():
    backwards = dict(reversed(FILES.items()))
    assert tree.listing(archive(FILES)) == tree.listing(archive(backwards, mtime=1_700_000_000))


@pytest.mark.parametrize(
    "changed",
    [
        archive(FILES | {"etc/motd": b"other"}),
        archive(FILES | {"etc/more": b""}),
        archive(FILES, mode=0o755),
        archive(FILES, owner=1000),
        archive(FILES, links={"etc/link": (tarfile.SYMTYPE, "motd")}),
    ],
    ids=["content", "path", "mode", "owner", "link"],
)
def test_everything_else_does(changed):
    assert tree.listing(changed) != tree.listing(archive(FILES))


def test_a_symbolic_link_is_its_target():
    lines = tree.listing(archive({}, links={"a": (tarfile.SYMTYPE, "b")})).splitlines()
    assert lines[0].split("\t")[1::3] == ["link", "b"]


def test_a_hard_link_is_the_content_that_it_names():
    lines = tree.listing(archive({"a": b"hello"}, links={"b": (tarfile.LNKTYPE, "a")})).splitlines()
    first, second = (line.split("\t") for line in lines)
    assert first[1] == second[1] == "file"
    assert first[4] == second[4]


def test_without_an_image_it_says_what_to_type(capsys):
    assert tree.main([]) == 2
    assert "docker/tree.py IMAGE" in capsys.readouterr().err
