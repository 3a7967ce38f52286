# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `yolov12 env` reads from the driver."""

from __future__ import annotations

from yolov12.tools import surroundings


def test_the_gpus_are_those_that_the_driver_lists(tmp_path):
    for number in (0, 1):
        folder = tmp_path / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 17\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\n")
    assert surroundings.gpus(tmp_path) == "NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3 (driver 580.95.05)"


def test_without_a_driver_there_are_none_and_the_reason_is_told(tmp_path):
    assert surroundings.gpus(tmp_path) == f"none (nothing is listed in {tmp_path})"


def test_a_package_that_is_not_there_is_named_all_the_same():
    assert surroundings._version("no-such-package-at-all") == "not installed"
