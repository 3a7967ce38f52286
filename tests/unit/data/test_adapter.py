# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import importlib
import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.faults.bad_data import CASES, write_damaged, write_good
from yolov12 import log
from yolov12.data import adapter, fonts, labelcache, pictures, synth
from yolov12.data.order import Plan
from yolov12.errors import UserError
from yolov12.seams import digest_of

NAMES = {0: "circle", 1: "square"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter.install()
    monkeypatch.setattr(log, "_said", set())


def scan(folder: Path, task: str = "detect", **data: Any) -> list[dict[str, Any]]:
    """The labels of the training split, as ultralytics reads them."""
    from ultralytics.data.dataset import YOLODataset

    description = {"names": NAMES, **data}
    return YOLODataset(img_path=str(folder / "images" / "train"), imgsz=64, data=description, task=task).labels


USERS = ("engine.trainer", "engine.validator", "models.yolo.classify.train", "models.yolo.detect.val", "utils.plotting")
"""Some modules that import what is replaced, by name."""


def test_every_module_of_ultralytics_gets_the_stand_ins():
    for user in USERS:
        importlib.import_module(f"ultralytics.{user}")
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "ultralytics"]
    for name in adapter._stock:
        expected = fonts.check_font if name == "check_font" else getattr(adapter, name)
        # Data sets are checked before anything is drawn.
        others = [module for module in modules if (name, module.__name__) != ("check_font", "ultralytics.data.utils")]
        bound = [vars(module)[name] for module in others if name in vars(module)]
        assert bound, name
        assert all(function is expected for function in bound), name


def test_installing_again_changes_nothing():
    before = dict(adapter._stock)
    adapter.install()
    assert adapter._stock == before


def test_a_seams_digest_is_that_of_the_pinned_source_after_installation():
    assert [seam.qualname for seam in adapter.SEAMS if digest_of(seam.qualname) != seam.digest] == []


def test_a_scan_is_kept_in_our_file_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_good(tmp_path)
    first = scan(tmp_path)
    assert [path.name for path in (tmp_path / "labels").iterdir() if path.is_file()] == ["train.yolov12-cache"]
    assert f"label cache: {tmp_path}/labels/train.yolov12-cache" in capsys.readouterr().err
    (tmp_path / "labels" / "train.yolov12-cache").touch()
    second = scan(tmp_path)
    assert capsys.readouterr().err == ""  # nothing written: it was read
    for left, right in zip(first, second, strict=True):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no picture\n" * 9, "not a picture that Pillow knows"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC picture, for which"),
    ],
)
@pytest.mark.parametrize("name", ["1.webp", "1.bmp", "1.tif", "1.heic"])
def test_a_file_that_pillow_does_not_know_is_taken_for_heic_only_where_it_is(
    name: str, content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pi_heif", None)  # not installed
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=says):
        adapter.check_image(str(tmp_path / name))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ultralytics' logger was given."""
    from ultralytics.utils import LOGGER

    lines: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(LOGGER, level, lines.append)
    return lines


def test_the_log_names_the_cache_that_was_read(tmp_path: Path, logged: list[str]):
    write_good(tmp_path)
    scan(tmp_path)
    logged.clear()
    scan(tmp_path)
    assert f"{tmp_path}/labels/train.yolov12-cache: 4 images, 0 backgrounds, 0 corrupt" in logged
    assert not [line for line in logged if "train.cache" in line]


def test_a_warning_about_labels_names_the_cache_that_there_is(tmp_path: Path, logged: list[str]):
    write_good(tmp_path)
    for label in (tmp_path / "labels" / "train").iterdir():
        label.write_text("")
    scan(tmp_path)
    (warning,) = [line for line in logged if "Labels are missing or empty" in line]
    assert f"{tmp_path}/labels/train.yolov12-cache" in warning


@pytest.mark.parametrize("how", ["empty", "garbage"])
def test_a_damaged_picture_is_told_in_the_words_of_the_check(how: str, tmp_path: Path, logged: list[str]):
    _, picture = write_damaged(tmp_path, how)
    scan(tmp_path)
    _, why = pictures.damage(str(picture))
    said = "\n".join(logged)
    assert f"{picture}: ignoring corrupt image/label: {why}" in said
    assert "heif" not in said.lower()


def test_a_changed_label_is_scanned_again(tmp_path: Path):
    write_good(tmp_path)
    scan(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").write_text("1 .5 .5 .1 .1\n")
    assert scan(tmp_path)[0]["cls"].tolist() == [[1.0]]


POLYGON = "0 .1 .1 .5 .1 .5 .5 .2 .6\n1 .2 .2 .4 .2 .4 .5 .1 .7\n"
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "segment": (POLYGON, {}),
    "obb": (POLYGON, {}),
    "pose": ("0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n", {"kpt_shape": [2, 3]}),
}


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks_read_back_what_their_scan_found(task: str, tmp_path: Path):
    write_good(tmp_path)
    text, extra = TASKS[task]
    for label in (tmp_path / "labels" / "train").iterdir():
        label.write_text(text)
    first, second = scan(tmp_path, task, **extra), scan(tmp_path, task, **extra)
    for left, right in zip(first, second, strict=True):
        assert [polygon.tolist() for polygon in left["segments"]] == [polygon.tolist() for polygon in right["segments"]]
        assert (left["keypoints"] is None) == (right["keypoints"] is None)
        assert np.array_equal(left["bboxes"], right["bboxes"])


def test_classification_reads_back_what_its_scan_found(tmp_path: Path):
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import ClassificationDataset

    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "train" / name / "0.jpg"), np.zeros((32, 32, 3), np.uint8))
    first = ClassificationDataset(str(tmp_path / "train"), get_cfg()).samples
    assert (tmp_path / "train.yolov12-cache").is_file()
    assert ClassificationDataset(str(tmp_path / "train"), get_cfg()).samples == first


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_in_stocks_place_is_neither_opened_nor_changed(tmp_path: Path):
    write_good(tmp_path)
    stock = tmp_path / "labels" / "train.cache"
    np.save(stock.open("wb"), np.array(Trap(tmp_path / "ran"), dtype=object))
    before = stock.read_bytes()
    assert len(scan(tmp_path)) == 4
    assert not (tmp_path / "ran").exists()
    assert stock.read_bytes() == before


def test_a_pickle_in_our_place_does_not_run_and_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_good(tmp_path)
    ours = tmp_path / "labels" / "train.yolov12-cache"
    ours.write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    assert len(scan(tmp_path)) == 4
    assert not (tmp_path / "ran").exists()
    assert "is no label cache; the data set is scanned again" in capsys.readouterr().err
    assert labelcache.load(ours)["version"]


def test_a_cache_that_is_cut_short_is_replaced_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_good(tmp_path)
    scan(tmp_path)
    ours = tmp_path / "labels" / "train.yolov12-cache"
    ours.write_bytes(ours.read_bytes()[:200])
    capsys.readouterr()
    assert len(scan(tmp_path)) == 4
    assert capsys.readouterr().err.count("is damaged; the data set is scanned again") == 1


def test_labels_that_can_not_be_written_beside_are_one_line_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_good(tmp_path)

    def read_only(path: Path, value: Any) -> None:  # root, who runs the tests in a container, may write anywhere
        raise UserError(f"can not write {path}: read-only file system")

    monkeypatch.setattr(labelcache, "save", read_only)
    assert len(scan(tmp_path)) == 4
    said = [line for line in capsys.readouterr().err.splitlines() if "label cache" in line]
    assert said == [
        f"label cache: not saved (can not write {tmp_path}/labels/train.yolov12-cache: read-only file system); "
        "the next run scans the data set again"
    ]


def test_a_scripts_download_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import ultralytics.data.utils

    monkeypatch.chdir(tmp_path)
    data = CASES["missing data with a script"].build(tmp_path)
    with pytest.raises(UserError, match="is a script, which is never run"):
        ultralytics.data.utils.check_det_dataset(str(data))
    assert not (tmp_path / "ran").exists()


def test_an_address_in_somebodys_yaml_is_not_fetched(tmp_path: Path):
    import ultralytics.data.utils

    data = CASES["missing data with an address"].build(tmp_path)
    with pytest.raises(UserError, match=r"https://example\.org/set\.zip.*only data sets that ultralytics lists"):
        ultralytics.data.utils.check_det_dataset(str(data))


def test_a_yaml_without_download_fails_as_in_stock(tmp_path: Path):
    import ultralytics.data.utils

    data = CASES["missing folder"].build(tmp_path)
    with pytest.raises(FileNotFoundError, match="images not found"):
        ultralytics.data.utils.check_det_dataset(str(data))


@pytest.mark.parametrize("name", ["coco8.yaml", "coco8", "https://example.org/set.zip"])
def test_offline_nothing_is_fetched_even_if_named(name: str, monkeypatch: pytest.MonkeyPatch):
    import ultralytics.data.utils

    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    with pytest.raises(UserError, match="YOLOV12_OFFLINE=1"):
        ultralytics.data.utils.check_det_dataset(name)


def test_offline_no_classification_set_is_fetched(monkeypatch: pytest.MonkeyPatch):
    import ultralytics.data.utils

    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    with pytest.raises(UserError, match="YOLOV12_OFFLINE=1"):
        ultralytics.data.utils.check_cls_dataset("mnist160")


@pytest.mark.parametrize("name", ["coco8.yaml", "coco8", "https://example.org/set.zip"])
def test_online_what_the_user_named_may_be_fetched(name: str):
    assert adapter.may_download(name)[0]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of training and validation with plots; the network is refused by conftest.py."""
    from ultralytics import YOLO

    adapter.install()
    root = tmp_path_factory.mktemp("run")
    data = synth.write(root / "data", n_train=4, n_val=2, imgsz=64)
    YOLO("yolo12n.yaml").train(
        data=str(data), epochs=1, imgsz=64, batch=2, device="cpu", workers=0, plots=True, project=str(root), name="out"
    )
    return root


def test_a_run_draws_its_plots_without_the_network(finished_run: Path):
    drawn = {path.name for path in (finished_run / "out").iterdir()}
    assert {"train_batch0.jpg", "val_batch0_labels.jpg", "labels.jpg", "confusion_matrix.png"} <= drawn


def test_a_run_leaves_label_caches_of_ours_only(finished_run: Path):
    found = {path.name for path in (finished_run / "data" / "labels").iterdir() if path.is_file()}
    assert found == {"train.yolov12-cache", "val.yolov12-cache"}


class Numbers(torch.utils.data.Dataset):
    """Ten samples; each tells its index and a random number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, random.random()


def ordered(workers: int = 0, rank: int = 0, ranks: int = 1) -> Any:
    """A loader of ultralytics with our order: four samples of all ranks to a batch."""
    from ultralytics.data.build import build_dataloader

    with adapter.in_order(lambda samples, shuffle: Plan(samples, 4, 5, rank, ranks, shuffle)):
        return build_dataloader(Numbers(), 4 // ranks, workers, shuffle=True, device="cpu")


def indices(loader: Any) -> list[list[int]]:
    return [batch[0].tolist() for batch in loader]


PLAN = Plan(10, 4, seed=5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_epoch_after_epoch_in_our_order(workers: int) -> None:
    loader = ordered(workers)
    try:
        assert [indices(loader), indices(loader)] == [list(PLAN.shares(0)), list(PLAN.shares(1))]
        assert (len(loader), loader.batch_size, len(loader.sampler)) == (3, 4, 10)
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_begins_in_the_middle_of_an_epoch_and_gives_the_same_samples(workers: int) -> None:
    whole, rest = ordered(), ordered(workers)
    try:
        whole.set_epoch(3)
        rest.set_epoch(3, seen=4)
        expected = [[value.tolist() for value in batch] for batch in whole]
        assert [[value.tolist() for value in batch] for batch in rest] == expected[1:]
        assert indices(rest) == list(PLAN.shares(4))
    finally:
        rest.close()


def test_an_epoch_that_is_done_again_begins_at_its_start() -> None:
    loader = ordered(workers=2)
    try:
        first = indices(loader)
        loader.set_epoch(0)
        assert indices(loader) == first
        next(iter(loader))  # and one that is left in the middle
        loader.set_epoch(1)
        assert indices(loader) == list(PLAN.shares(1))
    finally:
        loader.close()


def test_a_reset_loader_goes_on_with_the_epoch_that_is_due() -> None:
    loader = ordered()
    indices(loader)
    loader.reset()  # as ultralytics does when it closes the mosaic
    assert indices(loader) == list(PLAN.shares(1))


def test_outside_of_it_loaders_are_upstreams() -> None:
    from ultralytics.data.build import InfiniteDataLoader, build_dataloader

    assert type(build_dataloader(Numbers(), 4, 0, device="cpu")) is InfiniteDataLoader
