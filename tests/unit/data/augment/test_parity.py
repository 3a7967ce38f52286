# SPDX-License-Identifier: AGPL-3.0-or-later
"""The same pictures and the same random numbers through ultralytics' transforms and through ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.data.augment.upstream import arguments, transformed
from yolov12.data.augment import Hyperparameters, Source, draw, render

IMGSZ = 96
EVERYTHING = {
    "degrees": 30.0,
    "shear": 10.0,
    "flipud": 0.5,
    "bgr": 0.5,
    "mixup": 0.5,
    "cutmix": 0.5,
    "mosaic": 0.7,
    "scale": 0.5,
}


def source(rng: np.random.Generator, height: int, width: int, objects: int) -> Source:
    """Noise, which shows every difference between two ways of interpolating, with boxes anywhere on it."""
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    points = np.sort(rng.uniform(0, 1, (objects, 2, 2)), axis=1) * (width, height)
    classes = rng.integers(0, 80, objects).astype(np.float32)
    return Source(image, classes, points.reshape(objects, 4).astype(np.float32))


def many(rng: np.random.Generator, count: int = 12) -> dict[int, Source]:
    shapes = [(IMGSZ, int(rng.integers(30, IMGSZ + 1)))[:: rng.choice((1, -1))] for _ in range(count)]
    return {i: source(rng, *shape, objects=int(rng.integers(0, 12))) for i, shape in enumerate(shapes)}


def compare(
    sources: dict[int, Source], monkeypatch: pytest.MonkeyPatch, seed: int = 0, batch: int = 8, **changes: Any
) -> int:
    """Both ways, compared; returns how many boxes there were."""
    args = arguments(**changes)
    hyp = Hyperparameters.of(args, IMGSZ)
    rng = np.random.default_rng(seed)
    indices = rng.integers(len(sources), size=batch)
    recipe = draw(rng, indices, hyp, lambda rng, count: rng.integers(len(sources), size=count))
    ours = render(recipe, {i: sources[i] for i in recipe.needed()}, "cpu")
    assert ours.img.shape == (batch, 3, IMGSZ, IMGSZ)
    assert ours.cls.dtype == ours.bboxes.dtype == ours.batch_idx.dtype == torch.float32
    for sample, theirs in enumerate(transformed(recipe, sources, args, monkeypatch)):
        difference = (ours.img[sample].int() - theirs.img.int()).abs()
        far = (difference > 2).float().mean().item()
        assert far <= 0.001, f"sample {sample}: {far:.4%} beyond 2 grey levels, at most {difference.max()}"
        mine = ours.batch_idx == sample
        assert torch.equal(ours.cls[mine], theirs.cls), f"sample {sample}"
        assert torch.equal(ours.bboxes[mine].isfinite(), torch.ones_like(ours.bboxes[mine], dtype=torch.bool))
        assert torch.allclose(ours.bboxes[mine] * IMGSZ, theirs.bboxes * IMGSZ, rtol=0, atol=1e-3), f"sample {sample}"
    return len(ours.cls)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mosaic": 0.0},
        {"mosaic": 0.0, "scale": 0.0, "translate": 0.0, "fliplr": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0},
        {"perspective": 0.001, "degrees": 20.0},
        {"scale": (0.3, 0.6)},
        {"scale": 1.0, "translate": 0.9},
        {"mixup": 1.0},
        {"cutmix": 1.0},
        {"hsv_h": 0.5, "hsv_s": 1.0, "hsv_v": 1.0, "flipud": 1.0},
        EVERYTHING,
        EVERYTHING | {"perspective": 0.0005},
    ],
    ids=lambda changes: "everything" if "bgr" in changes else " ".join(changes) or "defaults",
)
def test_pixels_boxes_and_classes_are_upstreams(changes, monkeypatch):
    rng = np.random.default_rng(5)
    boxes = compare(many(rng), monkeypatch, seed=1, **changes) + compare(many(rng), monkeypatch, seed=2, **changes)
    assert boxes > 10


@pytest.mark.parametrize("changes", [{}, EVERYTHING | {"mosaic": 0.5}], ids=["defaults", "everything"])
def test_odd_pictures_come_out_as_upstreams(changes, monkeypatch):
    rng = np.random.default_rng(8)
    shapes = [(1, 1), (1, IMGSZ), (IMGSZ, 1), (3, IMGSZ), (IMGSZ, 2), (IMGSZ, IMGSZ)]
    sources = {i: source(rng, *shape, objects=i) for i, shape in enumerate(shapes)}
    compare(sources, monkeypatch, batch=12, **changes)


def test_pictures_without_objects_give_no_labels(monkeypatch):
    rng = np.random.default_rng(1)
    sources = {i: source(rng, IMGSZ, 60, objects=0) for i in range(5)}
    assert compare(sources, monkeypatch, **EVERYTHING) == 0


def test_thousands_of_objects_in_one_picture(monkeypatch):
    rng = np.random.default_rng(2)
    sources = {0: source(rng, IMGSZ, IMGSZ, objects=4000), 1: source(rng, 60, IMGSZ, objects=1)}
    assert compare(sources, monkeypatch, batch=4, **EVERYTHING) > 2000


def test_a_box_without_area_on_the_canvas_does_not_come_back_by_rotation(monkeypatch):
    """Clipped to the canvas it is a line, which has an area again once it is turned."""
    rng = np.random.default_rng(3)
    edges = np.array([[0, 0, 1, IMGSZ], [0, 0, IMGSZ, 1], [0, IMGSZ - 1, IMGSZ, IMGSZ]], dtype=np.float32)
    sources = {i: Source(source(rng, IMGSZ, IMGSZ, 0).image, np.zeros(3, np.float32), edges) for i in range(4)}
    compare(sources, monkeypatch, batch=16, degrees=45.0, scale=(0.4, 0.5))


def test_a_gain_of_nothing_renders_the_canvas_corner(monkeypatch):
    compare(many(np.random.default_rng(4)), monkeypatch, batch=4, scale=(0.0, 0.0))
