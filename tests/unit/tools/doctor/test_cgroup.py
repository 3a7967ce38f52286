# SPDX-License-Identifier: AGPL-3.0-or-later
"""Limits of control groups, from trees as the kernel's two versions have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov12.tools.doctor import cgroup

V2 = {"cgroup.controllers": "cpu pids\n", "cgroup.events": "populated 1\n"}
"""What a container's group has; the machine's own lacks the second."""
NOT_THERE = "has no file of the"


def tree(folder: Path, files: dict[str, str], own: str) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    (folder / "cgroup").mkdir(exist_ok=True)
    (folder / "own").write_text(own)
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("files", "own", "cores", "processes"),
    [
        (V2 | {"cpu.max": "250000 100000\n", "pids.max": "512\n"}, "0::/\n", 2.5, 512),
        (V2 | {"cpu.max": "max 100000\n", "pids.max": "max\n"}, "0::/\n", None, None),
        ({"cgroup.controllers": "cpu pids\n"}, "0::/\n", None, None),  # the machine itself
        (
            {"cgroup.controllers": "cpu pids\n", "a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n", "a/b/pids.max": "64\n"},
            "0::/a/b\n", 1, 64,
        ),
        (V2 | {"cpu.max": "400000 100000\n", "pids.max": "max\n"}, "0::/docker/abc\n", 4, None),  # seen as from outside
        (V2 | {"cpu.max": "400000 100000\n", "pids.max": "max\n"}, "0::/../..\n", 4, None),
        (
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n", "pids/pids.max": "100\n"},
            "4:cpu,cpuacct:/\n3:pids:/\n", 1.5, 100,
        ),
        (
            {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n", "pids/cgroup.sane_behavior": "0\n"},
            "4:cpu,cpuacct:/x\n3:pids:/\n", None, None,
        ),
    ],
    ids=["v2", "v2 max", "machine", "group above", "host's path", "above", "v1", "v1 unlimited"],
)  # fmt: skip
def test_the_least_limit_counts(tmp_path, files, own, cores, processes):
    places = tree(tmp_path, files, own)
    assert cgroup.cores(*places) == (cores, "")
    assert cgroup.processes(*places) == (processes, "")


@pytest.mark.parametrize("files", [{}, V2, V2 | {"cpu.max": "nonsense", "pids.max": ""}])
def test_no_file_is_another_answer_than_no_limit(tmp_path, files):
    for limit, unread in (look(*tree(tmp_path, files, "0::/\n")) for look in (cgroup.cores, cgroup.processes)):
        assert limit is None
        assert NOT_THERE in unread
