# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model, its pictures, and our predictor beside the one of ultralytics, on a CPU that stands in for a GPU: for tests of several modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.models.yolo.detect import DetectionPredictor

from benchmarks import lively
from tests.unit.engine.stand_in_pool import StandInPools
from yolov12 import YOLO
from yolov12.engine import network
from yolov12.engine.predictor import YOLOv12Predictor

IMGSZ = 96
SIZES = ((96, 128), (96, 128), (128, 96), (96, 128), (64, 200))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """BGR uint8 of several sizes."""
    noise = np.random.default_rng(0)
    return [
        cv2.resize(noise.integers(0, 255, (9, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for height, width in SIZES
    ]


@pytest.fixture(scope="module")
def folder(pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(made / f"{i}.png"), picture)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> YOLO:
    """One that finds some tens of boxes."""
    path = tmp_path_factory.mktemp("weights") / "lively.pt"
    lively.make("yolo12n.yaml", IMGSZ, share=0.15).save(path)
    return YOLO(path)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> StandInPools:
    """Makes the CPU a device with graphs."""
    made = StandInPools()
    monkeypatch.setattr(network, "pool_of", made.pool_of)
    return made


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: YOLO) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    model.predictor = None


def predicted(model: YOLO, source: Any, side: Any = YOLOv12Predictor, **options: Any) -> list[Any]:
    return model.predict(source, predictor=side, **{"imgsz": IMGSZ, "verbose": False, "device": "cpu"} | options)


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    """All that a caller may read from results, but for times."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.boxes.data, other.boxes.data)
        assert one.boxes.data.dtype == other.boxes.data.dtype
        assert (one.path, one.names, one.orig_shape, one.save_dir) == (
            other.path,
            other.names,
            other.orig_shape,
            other.save_dir,
        )
        assert np.array_equal(one.orig_img, other.orig_img)
        assert one.speed.keys() == other.speed.keys()
        assert all(isinstance(ms, float) for ms in one.speed.values())


def both(model: YOLO, source: Any, **options: Any) -> list[Any]:
    """Our results, as often as it takes to replay them; each time they are ultralytics'."""
    theirs = list(predicted(model, source, DetectionPredictor, **options))
    for _ in range(3):
        ours = list(predicted(model, source, **options))
        assert_same(ours, theirs)
    return ours


def sources(pictures: list[np.ndarray], folder: Path) -> dict[str, Any]:
    return {
        "array": pictures[0],
        "grey": pictures[0][..., :1],
        "floats": pictures[0].astype(np.float32),
        "list": pictures,
        "PIL": Image.fromarray(pictures[2][..., ::-1].copy()),
        "file": str(folder / "0.png"),
        "folder": str(folder),
        "files": [str(folder / "1.png"), str(folder / "4.png")],
        "tensor": torch.from_numpy(np.stack(pictures[:2])[..., ::-1].copy()).permute(0, 3, 1, 2) / 255,
    }


def hearing(model: YOLO, event: str, callback: Any) -> AbstractContextManager[Any]:
    """A model whose callback is gone afterwards."""
    model.add_callback(event, callback)
    ends = ExitStack()
    ends.callback(model.callbacks[event].remove, callback)
    return ends


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def put_anew(result: Any) -> None:
    """As a tracker does."""
    result.update(boxes=torch.cat([result.boxes.data[:, :5], torch.full((len(result.boxes), 1), 7.0)], 1))
