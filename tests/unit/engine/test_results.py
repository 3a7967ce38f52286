# SPDX-License-Identifier: AGPL-3.0-or-later
"""One row per epoch, also after a resume."""

from __future__ import annotations

from pathlib import Path

from yolov12.engine.results import drop_rows_after

TABLE = "epoch,time,train/box_loss\n1,2.5,3.1\n2,5,2.9\n3,7.5,2.8\n"


def test_rows_of_epochs_that_will_be_done_again_are_removed(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text(TABLE)
    assert drop_rows_after(table, 2) == 1
    assert table.read_text() == "epoch,time,train/box_loss\n1,2.5,3.1\n2,5,2.9\n"


def test_a_table_that_agrees_with_the_checkpoint_is_left_alone(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text(TABLE)
    before = table.stat().st_ino
    assert drop_rows_after(table, 3) == 0
    assert table.stat().st_ino == before


def test_a_new_run_in_an_old_folder_begins_a_new_table(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text(TABLE)
    assert drop_rows_after(table, 0) == 3
    assert table.read_text() == "epoch,time,train/box_loss\n"


def test_a_table_that_is_not_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert drop_rows_after(tmp_path / "results.csv", 2) == 0
