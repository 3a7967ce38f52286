# SPDX-License-Identifier: AGPL-3.0-or-later
"""A check before training trusts the scan of an earlier run, until anything changes. The scans are ultralytics' own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ultralytics.data.dataset import DATASET_CACHE_VERSION, YOLODataset
from ultralytics.data.utils import check_det_dataset

from tests.faults.bad_data import write_good
from yolov12.data import adapter, check, scanned
from yolov12.errors import UserError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    adapter.install()
    return write_good(tmp_path)


def scan(data: Path, single_class: bool = False) -> None:
    """Both splits, as a run does it."""
    description = check_det_dataset(str(data))
    if single_class:
        description["names"], description["nc"] = {0: "item"}, 1
    for split in ("train", "val"):
        YOLODataset(description[split], data=description, task="detect", imgsz=64, single_cls=single_class)


def known(data: Path, **options: bool) -> dict[str, bool]:
    """Which splits were not read again."""
    report = check.dataset(data, reuse_scan=True, **options)
    return {name: split.known_from is not None for name, split in report.splits.items()}


def test_what_was_scanned_is_not_read_again_and_the_report_counts_the_same(data: Path) -> None:
    (data.parent / "labels/val/0.txt").unlink()
    read = check.dataset(data)
    assert known(data) == {"train": False, "val": False}, "nothing was scanned yet"
    scan(data)
    reused = check.dataset(data, reuse_scan=True)
    for name, split in reused.splits.items():
        expected = read.splits[name]
        assert (split.images, split.objects, split.unlabelled) == (
            expected.images,
            expected.objects,
            expected.unlabelled,
        )
        place = data.parent / "labels" / f"{name}.yolov12-cache"
        assert f"data: {name}: unchanged since the scan in {place}, not read again" in reused.lines()
    assert check.dataset(data).splits["train"].known_from is None, "`data check` reads"


def test_one_class_is_a_scan_of_its_own(data: Path) -> None:
    scan(data, single_class=True)
    assert known(data, single_class=True) == {"train": True, "val": True}
    assert known(data) == {"train": False, "val": False}


def test_a_fault_that_came_later_is_found(data: Path) -> None:
    scan(data)
    (data.parent / "labels/train/1.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=r"labels/train/1\.txt:1"):
        check.dataset(data, reuse_scan=True)


def test_a_picture_of_the_same_size_that_was_written_later_is_looked_at(data: Path) -> None:
    scan(data)
    picture = data.parent / "images/train/2.jpg"
    picture.write_bytes(bytes(picture.stat().st_size))
    os.utime(picture, (1, 1))
    report = check.dataset(data, reuse_scan=True)
    assert [Path(path).name for path, _ in report.splits["train"].skipped] == ["2.jpg"]


def test_a_scan_that_found_faults_is_not_trusted(data: Path) -> None:
    (data.parent / "labels/train/1.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    scan(data)
    with pytest.raises(UserError, match=r"labels/train/1\.txt:1"):
        check.dataset(data, reuse_scan=True)


def test_a_damaged_cache_is_no_scan(data: Path) -> None:
    scan(data)
    (data.parent / "labels/train.yolov12-cache").write_bytes(b"yolov12-labels1\n")
    assert known(data) == {"train": False, "val": True}


def test_the_version_is_ultralytics() -> None:
    assert scanned.CACHE_VERSION == DATASET_CACHE_VERSION
