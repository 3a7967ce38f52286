# SPDX-License-Identifier: AGPL-3.0-or-later
"""A loader over plain pictures whose brightness is their index, with the stand-in for the augmentation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.unit.data.loader import stand_in
from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.labels import Boxes
from yolov12.data.loader.loader import PictureLoader
from yolov12.data.loader.prepare import Preparer
from yolov12.data.loader.recent import Recent
from yolov12.data.loader.store import Store
from yolov12.data.order import Order, Plan

IMGSZ = 32


@pytest.fixture(autouse=True)
def augmentation(monkeypatch: pytest.MonkeyPatch) -> list[stand_in.Recipe]:
    """What the stand-in draws."""
    monkeypatch.setitem(sys.modules, "yolov12.data.augment", stand_in)
    monkeypatch.setattr(stand_in, "drawn", [])
    return stand_in.drawn


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Ten pictures of 24 x 32 pixels; every pixel of picture i is 10 * i."""
    names = [str(tmp_path / f"{index}.png") for index in range(10)]
    for index, name in enumerate(names):
        cv2.imwrite(name, np.full((24, 32, 3), 10 * index, np.uint8))
    return names


@pytest.fixture
def loader_of(files: list[str]) -> Iterator[Callable[..., PictureLoader]]:
    """Makes loaders over `files`, and closes them after the test."""
    made: list[PictureLoader] = []

    def make(
        batch: int = 4, rank: int = 0, ranks: int = 1, places: int = 10, recent: int = 8, seed: int = 0, **plan: Any
    ) -> PictureLoader:
        labels = [
            {"cls": np.array([[index]], np.float32), "bboxes": np.array([[0.5, 0.5, 0.25, 0.5]], np.float32)}
            for index in range(len(files))
        ]
        gatherer = Gatherer(files, IMGSZ, Store(places, IMGSZ, torch.device("cpu")), threads=2)
        hyperparameters = stand_in.Hyperparameters.of(SimpleNamespace(mosaic=1.0), IMGSZ)
        preparer = Preparer(gatherer, Boxes(labels), Recent(recent), hyperparameters, seed, rank)
        dataset = SimpleNamespace(labels=labels, im_files=files, __len__=lambda: len(files))
        order = Order(Plan(len(files), batch * ranks, seed, rank, ranks, **plan))
        made.append(PictureLoader(dataset, preparer, order, batch, num_workers=2))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def shown(batch: dict[str, Any]) -> list[int]:
    """Which pictures a batch of the stand-in's shows."""
    return [int(value) // 10 for value in batch["img"][:, 0, 0, 0]]
