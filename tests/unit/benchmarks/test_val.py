# SPDX-License-Identifier: AGPL-3.0-or-later
"""val: both sides on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import BenchmarkError
from benchmarks.programs import val
from tests.unit.benchmarks.programs import run


@pytest.mark.slow  # a whole training and six validations
@pytest.mark.timeout(900)
def test_both_sides_validate_the_same_weights_on_the_pictures_asked_for(tmp_path):
    small = {
        "images": 6,
        "train_images": 4,
        "epochs": 1,
        "train_batch": 4,
        "batch": 4,
        "imgsz": 64,
        "workers": 0,
        "device": "cpu",
    }
    settings = [text for key, value in small.items() for text in ("--set", f"{key}={value}")]
    content = run(tmp_path / "records", "val", *settings, "--repeats", "1")
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["val_5000_n_map50_95"]["ours"] == rows["val_5000_n_map50_95"]["stock"]
    assert "main process busy" in rows["val_5000_n"]["note"]


SMALL = {"model": "yolo12n.yaml", "images": 3, "train_images": 2, "imgsz": 64}


def test_every_side_gets_the_weights_of_one_training(tmp_path, monkeypatch):
    trained: list[Path] = []
    monkeypatch.setattr(val, "_trained", {})
    monkeypatch.setattr(val, "trained", lambda parameters, scratch: trained.append(scratch) or b"weights")
    for side in ("stock", "ours"):
        val.prepare(SMALL, tmp_path / side)
        assert (tmp_path / side / val.WEIGHTS).read_bytes() == b"weights"
        assert len(list((tmp_path / side / "data/images/val").iterdir())) == SMALL["images"]
    assert trained == [tmp_path / "stock"]
    val.prepare(SMALL | {"imgsz": 96}, tmp_path / "other")
    assert len(trained) == 2, "another question has other weights"


def test_a_training_that_fails_says_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(val, "TRAIN", "raise SystemExit('no such model')")
    monkeypatch.setattr(val.training, "data_yaml", lambda scratch: "data.yaml")
    asked = SMALL | {"device": "cpu", "train_batch": 2, "epochs": 1, "workers": 0}
    with pytest.raises(BenchmarkError, match=r"^the training of the weights failed: no such model$"):
        val.trained(asked, tmp_path)
