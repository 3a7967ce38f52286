# SPDX-License-Identifier: AGPL-3.0-or-later
"""One row per epoch, also after a resume."""

from __future__ import annotations

import random
from pathlib import Path

import polars
import pytest

from yolov12.engine.results import columns, drop_rows_after

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


def read_by_ultralytics(path: Path) -> dict[str, list[object]]:
    return polars.read_csv(path.read_bytes(), infer_schema_length=None).to_dict(as_series=False)


def test_columns_are_read_as_ultralytics_reads_them(tmp_path: Path) -> None:
    table, rng = tmp_path / "results.csv", random.Random(0)
    kinds = (
        lambda: rng.random(),
        lambda: rng.choice([0, 1.5, 1e-7, 1e6, 3, -2.5, -1e-9]),
        lambda: rng.randint(-3, 3),
        lambda: 10 ** rng.uniform(-12, 12),
    )
    for rows in (1, 2, 50):
        lines = [",".join(f"{kind():.6g}" for kind in kinds) for _ in range(rows)]
        table.write_text("\n".join(["epoch,time,train/box_loss,lr/pg0", *lines]) + "\n")
        found, theirs = columns(table), read_by_ultralytics(table)
        assert found == theirs
        assert found is not None
        assert [[type(value) for value in values] for values in found.values()] == [
            [type(value) for value in values] for values in theirs.values()
        ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,time\n",
        "epoch,time\n1,nan\n",
        "epoch,time\n1,inf\n",
        "epoch,time\n1\n",
        "epoch,time\n1,\n",
        "epoch,epoch\n1,2\n",
        'epoch,"a"\n1,2\n',
        "epoch,time\n1,99999999999999999999\n",
        "epoch,time\n1,word\n",
    ],
)
def test_what_is_no_table_of_finite_numbers_is_left_to_ultralytics(tmp_path: Path, text: str) -> None:
    table = tmp_path / "results.csv"
    table.write_text(text)
    found = columns(table)
    assert found is None or found == read_by_ultralytics(table)
    assert columns(tmp_path / "none.csv") is None
