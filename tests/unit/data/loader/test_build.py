# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which of ultralytics' data sets can go through our loader, and the loader that is built for one."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults.bad_data import write_good
from tests.unit.data.loader.conftest import shown
from yolov12 import log
from yolov12.data.loader import Obstacle, PictureLoader, build, obstacle
from yolov12.data.order import Plan

build_module = importlib.import_module("yolov12.data.loader.build")  # by its name in the package it is the function
NAMES = {0: "circle", 1: "square"}
CPU = torch.device("cpu")


def arguments(**changed: Any) -> Any:
    from ultralytics.cfg import get_cfg

    return get_cfg(overrides={"task": "detect", "workers": 2, **changed})


def data_set(folder: Path, task: str = "detect", **changed: Any) -> Any:
    from ultralytics.data.dataset import YOLODataset

    data = {"names": NAMES, "channels": 3, "kpt_shape": (1, 2), "flip_idx": [0], **changed.pop("data", {})}
    options = {"imgsz": 64, "augment": True, "hyp": arguments(task=task), "batch_size": 2, **changed}
    return YOLODataset(img_path=str(folder / "images" / "train"), data=data, task=task, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_good(tmp_path)
    return tmp_path


@pytest.fixture
def built() -> Iterator[list[PictureLoader]]:
    """Closed after the test."""
    made: list[PictureLoader] = []
    yield made
    for loader in made:
        loader.close()


def test_an_ordinary_detection_set_has_no_obstacle(folder: Path):
    assert obstacle(data_set(folder), arguments()) is None


def test_closing_mosaic_makes_no_custom_set_of_it(folder: Path):
    dataset = data_set(folder)
    dataset.close_mosaic(arguments())
    assert obstacle(dataset, arguments()) is None


def test_what_the_user_asked_for_is_told_as_it_is_typed(folder: Path):
    assert obstacle(data_set(folder, rect=True), arguments(rect=True)) == Obstacle(
        "rect=True makes batches of several shapes", "rect=True"
    )
    args = arguments()
    args.augmentations = ["a transform"]
    found = obstacle(data_set(folder), args)
    assert found is not None
    assert found.typed == "augmentations="


def test_what_the_data_bring_along_is_a_reason_without_a_word_of_the_user(folder: Path):
    gray = data_set(folder, data={"channels": 1})
    assert obstacle(gray, arguments()) == Obstacle("pictures with 1 channels")
    args = arguments()
    args.quantize = 8
    assert obstacle(data_set(folder), args) == Obstacle("quantize=8 calibrates with ultralytics' loader")
    outlined = data_set(folder)
    outlined.labels[0]["segments"] = [np.zeros((4, 2), np.float32)]
    assert obstacle(outlined, arguments()) == Obstacle("masks")


def test_a_class_of_its_own_loads_in_its_own_way(folder: Path):
    dataset = data_set(folder)
    dataset.__class__ = type("Mine", (type(dataset),), {})
    found = obstacle(dataset, arguments())
    assert found is not None
    assert "Mine" in found.reason


@pytest.mark.parametrize("how", ["a step more", "albumentations"])
def test_custom_transforms_are_seen(folder: Path, how: str):
    dataset = data_set(folder)
    if how == "a step more":
        dataset.transforms.append(lambda labels: labels)
    else:
        step = next(s for s in dataset.transforms.transforms if type(s).__name__ == "Albumentations")
        step.transform = object()  # what it has where the package is installed
    assert obstacle(dataset, arguments()) == Obstacle("custom transforms")


def test_a_loader_for_a_data_set_of_ultralytics(folder: Path, built: list[PictureLoader]):
    dataset = data_set(folder)
    loader = build(dataset, arguments(), 3, Plan(4, 3), 1, CPU, cache_folder=None)
    built.append(loader)
    assert (loader.dataset, loader.batch_size, loader.num_workers, loader.drop_last) == (dataset, 3, 2, False)
    batches = list(loader)
    assert [len(batch["im_file"]) for batch in batches] == [3, 1]
    assert sorted(sum([batch["im_file"] for batch in batches], ())) == dataset.im_files
    assert sum(len(batch["cls"]) for batch in batches) == sum(len(label["cls"]) for label in dataset.labels)


def test_a_batch_larger_than_the_data_set_is_the_data_set(folder: Path, built: list[PictureLoader]):
    loader = build(data_set(folder), arguments(), 16, Plan(4, 16), 1, CPU, cache_folder=None)
    built.append(loader)
    assert (loader.batch_size, len(loader)) == (4, 1)


@pytest.mark.parametrize(("drop_last", "batches"), [(True, 1), (False, 2)])
def test_a_plan_may_leave_out_a_last_batch_that_is_not_full(
    folder: Path, built: list[PictureLoader], drop_last: bool, batches: int
):
    loader = build(data_set(folder), arguments(), 3, Plan(4, 3, drop_last=drop_last), 1, CPU, cache_folder=None)
    built.append(loader)
    assert len(loader) == batches


def test_ranks_share_the_pictures_and_the_cores(
    folder: Path, built: list[PictureLoader], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(4))
    dataset = data_set(folder)
    built += [build(dataset, arguments(workers=8), 2, Plan(4, 4, rank=rank, ranks=2), 2, CPU, None) for rank in (0, 1)]
    assert [loader.num_workers for loader in built] == [2, 2]
    seen = [file for loader in built for batch in loader for file in batch["im_file"]]
    assert sorted(seen) == dataset.im_files


def test_pictures_come_from_the_cache_where_the_user_wants_one(
    folder: Path, built: list[PictureLoader], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(log, "_said", set())
    cached = build(data_set(folder), arguments(), 4, Plan(4, 4), 1, CPU, cache_folder=folder / "cache")
    plain = build(data_set(folder), arguments(), 4, Plan(4, 4), 1, CPU, cache_folder=None)
    built += [cached, plain]
    assert "picture cache: written to " in capsys.readouterr().err
    (expected,) = list(plain)
    reading = threading.Event()
    monkeypatch.setattr("yolov12.data.loader.plain.decode", lambda path: reading.set())
    (found,) = list(cached)
    assert torch.equal(found["img"], expected["img"])
    assert found["ori_shape"] == expected["ori_shape"]
    assert not reading.is_set()


def test_without_room_for_a_cache_pictures_are_decoded_as_they_are_needed(
    folder: Path, built: list[PictureLoader], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    loader = build(data_set(folder), arguments(), 4, Plan(4, 4), 1, CPU, cache_folder=folder / "cache")
    built.append(loader)
    assert "picture cache: none: " in (said := capsys.readouterr().err)
    assert "pictures are decoded as they are needed" in said
    assert len(shown(next(iter(loader)))) == 4


def test_processes_read_beside_a_gpu_and_where_they_can_not_the_reason_is_said(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(build_module, "ReaderPool", lambda *given: asked.append(given) or "a pool")
    assert build_module._pool(["a.jpg"], 64, 8, 16, torch.device("cuda")) == ("a pool", "processes")
    assert asked == [(["a.jpg"], 64, 8, 48, torch.device("cuda"))]
    assert build_module._pool(["a.jpg"], 64, 8, 16, CPU) == (None, "threads")

    def refused(*given: Any) -> Any:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(build_module, "ReaderPool", refused)
    pool, words = build_module._pool(["a.jpg"], 64, 8, 16, torch.device("cuda"))
    assert pool is None
    assert words == "threads (processes can not be had: Operation not permitted)"


@pytest.mark.parametrize(
    ("places", "cache", "decoder", "wanted"),
    [(2, None, None, True), (99, None, None, False), (2, "cache", None, False), (2, None, "dali", False)],
)
def test_processes_are_for_pictures_that_are_decoded_again_and_again(
    folder: Path,
    built: list[PictureLoader],
    monkeypatch: pytest.MonkeyPatch,
    places: int,
    cache: Any,
    decoder: Any,
    wanted: bool,
):
    asked: list[Any] = []
    dataset = data_set(folder)
    monkeypatch.setattr(build_module, "_pool", lambda *given: (asked.append(given), (None, "threads"))[1])
    monkeypatch.setattr(build_module, "_places", lambda *_: (min(places, len(dataset)), 2))
    monkeypatch.setattr(build_module, "_cache", lambda *_: cache)
    monkeypatch.setattr(build_module.decoders, "choose", lambda *_: (decoder, "a test"))
    built.append(build(dataset, arguments(), 2, Plan(len(dataset), 2, 0), 1, CPU, folder if cache else None))
    assert bool(asked) is wanted
