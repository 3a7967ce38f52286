# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bad data gets one clear sentence before training, and is not touched. Needs no GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.faults.bad_data import CASES, DAMAGED, write_damaged, write_good
from yolov12.data import check
from yolov12.errors import UserError


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_refused_with_where_and_what(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = CASES[name].build(tmp_path)
    before = digest(tmp_path)
    with pytest.raises(UserError) as caught:
        check.dataset(data)
    message = str(caught.value)
    assert [word for word in CASES[name].says if word not in message] == [], message
    assert caught.value.exit_code == 2
    assert digest(tmp_path) == before


@pytest.mark.parametrize("name", CASES)
def test_an_error_is_one_line_and_then_one_for_each_label_at_fault(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        check.dataset(CASES[name].build(tmp_path))
    first, *others = str(caught.value).splitlines()
    assert bool(others) == first.endswith("at fault:")
    assert [line for line in others if ".txt:" not in line and "more" not in line] == []


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_picture_is_no_error_but_counted_and_named(how: str, tmp_path: Path):
    data, picture = write_damaged(tmp_path, how)
    before = digest(tmp_path)
    report = check.dataset(data)
    assert [path for path, _ in report.splits["train"].skipped] == [str(picture)]
    assert any("1 damaged image, left out" in line and str(picture) in line for line in report.lines())
    assert digest(tmp_path) == before


def test_five_damaged_pictures_are_named_and_the_rest_counted(tmp_path: Path):
    data = write_good(tmp_path)
    good = (tmp_path / "images" / "train" / "0.jpg").read_bytes()
    for index in range(100, 107):
        (tmp_path / "images" / "train" / f"{index}.jpg").write_bytes(good[:100])
    line = next(line for line in check.dataset(data).lines() if "damaged image" in line)
    assert "7 damaged" in line
    assert "104.jpg" in line
    assert "105.jpg" not in line
    assert "and 2 more" in line


def test_a_split_of_nothing_but_damaged_pictures_is_refused(tmp_path: Path):
    data = write_good(tmp_path)
    for picture in (tmp_path / "images" / "val").iterdir():
        picture.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 images for `val:` can be read"):
        check.dataset(data)


@pytest.mark.parametrize("how", DAMAGED)
def test_the_run_leaves_out_the_pictures_that_the_check_named(how: str, tmp_path: Path):
    from ultralytics.data.dataset import YOLODataset

    from yolov12.data import adapter

    adapter.install()
    _, picture = write_damaged(tmp_path, how)
    names = {0: "circle", 1: "square"}
    used = YOLODataset(img_path=str(tmp_path / "images" / "train"), imgsz=64, data={"names": names}).im_files
    assert sorted(Path(path).name for path in used) == ["0.jpg", "2.jpg", "3.jpg"]
    assert picture.is_file()


def test_without_strictness_faults_in_labels_are_reported(tmp_path: Path):
    report = check.dataset(CASES["class beyond names"].build(tmp_path), strict=False)
    assert any("labels/train/2.txt:2" in line for line in report.lines())
