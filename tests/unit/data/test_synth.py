# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov12.data import check, synth
from yolov12.errors import UserError


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path):
    first = synth.write(tmp_path / "a", n_train=4, n_val=2, imgsz=128).parent
    second = synth.write(tmp_path / "b", n_train=4, n_val=2, imgsz=128).parent
    assert digests(first) == digests(second)
    assert len(digests(first)) == 2 * (4 + 2) + 1


def test_each_picture_is_another(tmp_path: Path):
    found = digests(synth.write(tmp_path / "a", n_train=6, n_val=1, imgsz=64).parent / "images/train")
    assert len(set(found.values())) == 6


def test_a_picture_that_can_not_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(file: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        synth.write(tmp_path / "a", n_train=3, n_val=1, imgsz=64)
    assert not list(tmp_path.iterdir())


def test_another_seed_draws_other_pictures(tmp_path: Path):
    first = synth.write(tmp_path / "a", n_train=1, n_val=1, imgsz=64, seed=0).parent
    second = synth.write(tmp_path / "b", n_train=1, n_val=1, imgsz=64, seed=1).parent
    assert digests(first)["images/train/00000.jpg"] != digests(second)["images/train/00000.jpg"]


def test_a_longer_set_begins_with_the_shorter_one(tmp_path: Path):
    short = digests(synth.write(tmp_path / "a", n_train=2, n_val=2, imgsz=64).parent)
    long = digests(synth.write(tmp_path / "b", n_train=3, n_val=2, imgsz=64).parent)
    del short["data.yaml"]
    assert short.items() <= long.items()


def test_training_and_validation_pictures_differ(tmp_path: Path):
    found = digests(synth.write(tmp_path / "a", n_train=1, n_val=1, imgsz=64).parent)
    assert found["images/train/00000.jpg"] != found["images/val/00000.jpg"]


def test_the_set_passes_the_check_and_says_what_is_in_it(tmp_path: Path):
    report = check.dataset(synth.write(tmp_path / "a", n_train=6, n_val=3, imgsz=96))
    assert report.classes == len(synth.CLASSES)
    assert {name: split.images for name, split in report.splits.items()} == {"train": 6, "val": 3}
    assert report.splits["train"].objects >= 6


def test_a_moved_set_still_works(tmp_path: Path):
    synth.write(tmp_path / "a", n_train=1, n_val=1, imgsz=64)
    (tmp_path / "a").rename(tmp_path / "b")
    assert check.dataset(tmp_path / "b" / "data.yaml").splits["train"].images == 1


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(UserError, match="was not written by"):
        synth.write(tmp_path, n_train=1, n_val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_file_is_not_overwritten(tmp_path: Path):
    (tmp_path / "out").write_text("keep me")
    with pytest.raises(UserError, match="out is a file: name a folder"):
        synth.write(tmp_path / "out", n_train=1, n_val=1)


def test_its_own_folder_is_replaced_as_a_whole(tmp_path: Path):
    synth.write(tmp_path / "out", n_train=3, n_val=1, imgsz=64)
    synth.write(tmp_path / "out", n_train=1, n_val=1, imgsz=64)
    assert [path.name for path in (tmp_path / "out" / "images" / "train").iterdir()] == ["00000.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_can_not_be_made_is_an_error_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can not write"):
        synth.write(tmp_path / "file" / "out", n_train=1, n_val=1)


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_val": -1}, {"imgsz": 8}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, int], tmp_path: Path):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        synth.write(tmp_path / "out", **wrong)


def test_the_bundled_set_is_written_once(tmp_path: Path):
    first = synth.bundled(tmp_path)
    written = first.stat().st_mtime_ns
    assert synth.bundled(tmp_path) == first
    assert first.stat().st_mtime_ns == written
    assert check.dataset(first).splits["train"].images == synth.BUNDLED[0]


def test_objects_are_small_and_large_and_partly_hidden():
    rng = np.random.default_rng(0)
    labels = [synth.draw(320, rng)[1] for _ in range(20)]
    widths = np.concatenate(labels)[:, 3]
    assert widths.min() < 0.1 < 0.2 < widths.max()
    corners = [np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], 1) for rows in labels]
    overlapping = sum(bool(overlaps(boxes)) for boxes in corners)
    assert 0 < overlapping < 20


def overlaps(boxes: np.ndarray) -> int:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return int((np.triu((high > low).all(2), 1)).sum())


def test_a_label_encloses_its_shape_to_the_pixel():
    shape = synth.Shape(cls=1, x=50.0, y=40.0, half=14.142, turn=0.0)  # a square of half side 10
    assert shape.polygon().tolist() == [[60, 50], [40, 50], [40, 30], [60, 30]]
    mask = np.zeros((100, 100), np.uint8)
    cv2.fillPoly(mask, [shape.polygon()], 1)
    rows, columns = np.nonzero(mask)
    cls, x, y, width, height = synth._label(shape, 100)
    assert (cls, x, y) == (1, 0.505, 0.405)
    assert width * 100 == pytest.approx(columns.max() - columns.min() + 1)
    assert height * 100 == pytest.approx(rows.max() - rows.min() + 1)
