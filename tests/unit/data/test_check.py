# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a check reports on data that can be trained on. Faults are in tests/faults/test_bad_data.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.faults.bad_data import write_good
from yolov12.data import check
from yolov12.errors import UserError

MINI = Path(__file__).parents[2] / "data" / "bccd-mini" / "data.yaml"


def bccd() -> Path:
    """The whole BCCD set: named by YOLOV12_TEST_BCCD, or beside the checkout."""
    beside = Path(__file__).parents[4] / "shared" / "data" / "bccd"
    folder = Path(os.environ.get("YOLOV12_TEST_BCCD") or beside)
    if not (folder / "bccd.yaml").is_file():
        pytest.skip(f"needs the BCCD photos in {folder}: set YOLOV12_TEST_BCCD to their folder")
    return folder / "bccd.yaml"


def test_real_photos_pass():
    report = check.dataset(MINI)
    assert report.classes == 3
    assert {name: (split.images, split.objects) for name, split in report.splits.items()} == {
        "train": (8, 93),
        "val": (4, 41),
    }
    assert len(report.lines()) == 1


def test_the_whole_of_the_real_photos_passes():
    report = check.dataset(bccd())
    assert {name: split.images for name, split in report.splits.items()} == {"train": 292, "val": 72}
    assert report.lines()[1:] == []


def test_a_picture_without_label_file_counts_as_background(tmp_path: Path):
    data = write_good(tmp_path)
    (tmp_path / "labels" / "train" / "3.txt").unlink()
    assert "data: train: 1 of 4 images without a label file, counted as background" in check.dataset(data).lines()


def test_unlabelled_validation_pictures_are_allowed(tmp_path: Path):
    data = write_good(tmp_path)
    shutil.rmtree(tmp_path / "labels" / "val")
    assert check.dataset(data).splits["val"].unlabelled == 2


def test_a_jpeg_that_will_be_rewritten_is_announced(tmp_path: Path):
    data = write_good(tmp_path)
    picture = tmp_path / "images" / "train" / "0.jpg"
    picture.write_bytes(picture.read_bytes() + b"\0\0")
    (line,) = check.dataset(data).lines()[1:]
    assert "1 JPEG without the end mark" in line
    assert str(picture) in line


def test_faults_are_collected_across_splits_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "_CHUNK", 1)
    data = write_good(tmp_path)
    for split, name in (("train", "0"), ("train", "3"), ("val", "1")):
        (tmp_path / "labels" / split / f"{name}.txt").write_text("5 .5 .5 .1 .1\n")
    with pytest.raises(
        UserError, match=r"3 label lines at fault:\n .*train/0\.txt:1.*\n .*train/3\.txt:1.*\n .*val/1\.txt:1"
    ):
        check.dataset(data)


def test_pictures_outside_a_folder_called_images_are_told_how_folders_must_be_called(tmp_path: Path):
    data = write_good(tmp_path, "train: pics/train\nval: images/val\nnames: [a, b]\n")
    (tmp_path / "pics").mkdir()
    (tmp_path / "images" / "train").rename(tmp_path / "pics" / "train")
    with pytest.raises(
        UserError, match=r"/pics/train/0\.txt, beside it, since no folder on its path is called `images`"
    ):
        check.dataset(data)


def test_the_folder_of_the_labels_in_place_of_the_pictures_is_recognized(tmp_path: Path):
    data = write_good(tmp_path, "train: labels/train\nval: images/val\nnames: [a, b]\n")
    with pytest.raises(
        UserError, match=rf"holds label files: .* the folder of the pictures, here {tmp_path}/images/train"
    ):
        check.dataset(data)


def test_one_of_a_thing_is_told_in_the_singular(tmp_path: Path):
    data = write_good(tmp_path, "train: images/train\nval: images/val\nnames: [a]\n")
    for label in (tmp_path / "labels").rglob("*.txt"):
        label.write_text("")
    (tmp_path / "labels" / "val" / "0.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "images" / "val" / "1.jpg").unlink()
    assert check.dataset(data).lines()[0].endswith("1 class; train 4 images with 0 objects, val 1 image with 1 object")


def test_one_class_training_ignores_class_numbers(tmp_path: Path):
    data = write_good(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").write_text("9 .5 .5 .1 .1\n")
    assert check.dataset(data, single_class=True).splits["train"].problems == []


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_a_polygon_task_refuses_a_box_set(task: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"{task} needs polygons"):
        check.dataset(write_good(tmp_path), task)


def test_pose_needs_its_keypoint_shape(tmp_path: Path):
    with pytest.raises(UserError, match=r"`kpt_shape:` is None"):
        check.dataset(write_good(tmp_path), "pose")


def test_a_wrong_keypoint_shape_is_refused(tmp_path: Path):
    data = write_good(tmp_path)
    data.write_text(f"{data.read_text()}kpt_shape: [2, 4]\n")
    with pytest.raises(UserError, match=r"\[2, 4\]"):
        check.dataset(data, "pose")


def classification(folder: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            shutil.copy(MINI.parent / "images" / "val" / "BloodImage_00065.jpg", folder / split / name / "0.jpg")
    return folder


def test_a_classification_folder_passes(tmp_path: Path):
    report = check.dataset(classification(tmp_path / "set"), "classify")
    assert (report.classes, report.splits["train"].images) == (2, 2)


def test_a_classification_set_is_found_where_ultralytics_keeps_its_own_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ultralytics.utils.DATASETS_DIR", tmp_path)
    classification(tmp_path / "set-160")
    assert check.dataset("set-160", "classify").data == tmp_path / "set-160"
    assert f"{tmp_path / 'set-160'} is used, by datasets_dir of" in capsys.readouterr().err


def test_a_classification_set_that_is_not_here_is_not_fetched():
    with pytest.raises(UserError, match=r"no such folder.*none is fetched.*train/<class>/"):
        check.dataset("mnist160", "classify")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_classification_set_needs_both_splits(split: str, tmp_path: Path):
    shutil.rmtree(classification(tmp_path / "set") / split)
    with pytest.raises(UserError, match=f"no folder {split}"):
        check.dataset(tmp_path / "set", "classify")


def test_an_empty_classification_set_is_refused(tmp_path: Path):
    folder = classification(tmp_path / "set")
    for picture in (folder / "train").rglob("*.jpg"):
        picture.unlink()
    with pytest.raises(UserError, match="no images in"):
        check.dataset(folder, "classify")
