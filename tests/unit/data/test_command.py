# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.bad_data import write_good
from yolov12 import cli


@pytest.mark.parametrize(("typed", "meant"), [("chekc", "check"), ("sinth", "synth")])
def test_a_slip_in_the_action_is_answered_with_the_right_one(typed: str, meant: str, capsys):
    assert cli.main(["data", typed, "my.yaml"]) == 2
    assert f"there is no `data {typed}`: did you mean `data {meant}`?" in capsys.readouterr().err


def test_a_slip_in_the_task_is_answered_before_the_labels_are_read(tmp_path: Path, capsys):
    assert cli.main(["data", "check", str(write_good(tmp_path)), "task=segmnt"]) == 2
    assert "task=segmnt: did you mean segment? Type one of" in capsys.readouterr().err


def test_faults_in_labels_stand_on_lines_of_their_own(tmp_path: Path, capsys):
    data = write_good(tmp_path)
    (tmp_path / "labels" / "train" / "2.txt").write_text("7 .5 .5 .1 .1\n0 nan .5 .1 .1\n")
    assert cli.main(["data", "check", str(data)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {data}: correct or delete 2 label lines at fault:",
        "  labels/train/2.txt:1: class 7, but `names` gives 2 classes (0-1)",
        "  labels/train/2.txt:2: x_center is nan",
    ]


def test_a_class_beyond_nc_is_told_of_nc(tmp_path: Path, capsys):
    data = write_good(tmp_path, "train: images/train\nval: images/val\nnc: 2\n")
    (tmp_path / "labels" / "train" / "2.txt").write_text("7 .5 .5 .1 .1\n")
    assert cli.main(["data", "check", str(data)]) == 2
    assert "labels/train/2.txt:1: class 7, but `nc` gives 2 classes (0-1)" in capsys.readouterr().err


def test_a_yaml_with_nc_alone_numbers_its_classes(tmp_path: Path, capsys):
    data = write_good(tmp_path, "train: images/train\nval: images/val\nnc: 2\n")
    assert cli.main(["data", "check", str(data)]) == 0
    assert f"data: {data}: 2 classes;" in capsys.readouterr().out
