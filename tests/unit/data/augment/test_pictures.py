# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
import torch

from tests.unit.data.augment.test_parity import IMGSZ, many
from yolov12.data.augment import Hyperparameters, Pictures, Recipe, Source, backends, draw, render
from yolov12.data.ragged import rows_of

HYP = Hyperparameters(imgsz=IMGSZ, mosaic=1.0, scale=0.5, translate=0.1, fliplr=0.5, hsv_s=0.5)


def batch(count: int) -> tuple[Recipe, dict[int, Source]]:
    """Of `count` samples, whose pictures are all there are."""
    rng = np.random.default_rng(0)
    return draw(rng, np.arange(count), HYP, lambda rng, n: rng.integers(count, size=n)), many(rng, count)


def test_joined_pictures_make_the_same_batch():
    recipe, sources = batch(6)
    joined = Pictures.of([sources[index] for index in recipe.needed().tolist()])
    assert len(joined.boxes) == joined.counts.sum() > 0
    one, other = render(recipe, sources, "cpu"), render(recipe, joined, "cpu")
    for name in ("img", "cls", "bboxes", "batch_idx"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_pictures_without_objects_make_a_batch():
    recipe, sources = batch(3)
    empty = [Source(source.image, source.classes[:0], source.boxes[:0]) for source in sources.values()]
    assert len(render(recipe, Pictures.of(empty), "cpu").bboxes) == 0


def calls_in(work: Callable[[], object]) -> int:
    """Of functions, Python's own and compiled ones."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_what_python_does_hardly_grows_with_the_batch(monkeypatch: pytest.MonkeyPatch):
    """It runs beside the training loop and shares Python's lock with it: labels are worked on in arrays, and a picture is only looked at."""
    pixels = torch.zeros(64, 3, 1, 1, dtype=torch.uint8)
    nobody = backends.Backend(lambda layers, device: pixels, lambda images, gains: images)
    monkeypatch.setattr(backends, "choose", lambda device: nobody)
    counts = []
    for size in (16, 64):
        recipe, sources = batch(size)
        pictures = Pictures.of([sources[index] for index in recipe.needed().tolist()])
        render(recipe, pictures, "cpu")
        counts.append(calls_in(lambda recipe=recipe, pictures=pictures: render(recipe, pictures, "cpu")))
    assert counts[1] - counts[0] <= 4 * (64 - 16), counts


@pytest.mark.parametrize(
    ("starts", "counts", "rows"),
    [([5, 0, 9], [2, 0, 3], [5, 6, 9, 10, 11]), ([3, 3], [1, 1], [3, 3]), ([], [], [])],
)
def test_rows_of_parts(starts, counts, rows):
    assert rows_of(np.array(starts, np.int64), np.array(counts, np.int64)).tolist() == rows
