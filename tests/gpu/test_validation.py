# SPDX-License-Identifier: AGPL-3.0-or-later
"""Scoring on a GPU: ultralytics' rows, and waits that do not grow with the images of a batch. Needs one NVIDIA GPU.

python -m pytest tests/gpu/test_validation.py
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision  # noqa: F401  # as ultralytics' validator does, so that its NMS is torchvision's
from torch import Tensor
from ultralytics.utils.nms import non_max_suppression

from tests.unit.engine.scoring.test_suppression import predictions
from yolov12.engine.scoring import timing
from yolov12.engine.scoring.statistics import Collected, Detections, Targets
from yolov12.engine.scoring.suppression import batched_nms

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("iou", [0.45, 0.7])
@pytest.mark.parametrize(("classes", "anchors"), [(3, 2000), (80, 200)])
def test_the_rows_are_ultralytics(classes: int, anchors: int, iou: float) -> None:
    """An overlap may be rounded differently in the last place, so one row in a thousand may be another."""
    prediction = predictions(16, classes, anchors, seed=1, objects=60).to(GPU)
    expected = non_max_suppression(prediction.clone(), 0.001, iou, multi_label=True, max_time_img=60.0)
    rows, counts = batched_nms(prediction, 0.001, iou)
    different = sum(
        len({tuple(row) for row in ours.tolist()} ^ {tuple(row) for row in theirs.tolist()})
        for ours, theirs in zip(rows.split(counts), expected, strict=True)
    )
    assert different <= len(rows) / 1000, f"{different} of {len(rows)} rows differ"


def waits(images: int) -> int:
    """How often scoring a batch waits for the GPU."""
    prediction = predictions(images, 3, 500, seed=2).to(GPU)
    boxes = torch.rand(images * 5, 4, device=GPU).cumsum(1) * 100
    targets = Targets(boxes, torch.zeros(images * 5, device=GPU), [5] * images)

    def score() -> Tensor:
        rows, counts = batched_nms(prediction, 0.001, 0.7)
        collected = Collected(3)
        found = Detections(rows[:, :4], rows[:, 4], rows[:, 5], counts)
        collected.add(found, targets, [f"{i}.jpg" for i in range(images)], 0.5)
        return rows

    score()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            score()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in heard)


def test_waits_do_not_grow_with_the_images_of_a_batch() -> None:
    few, many = waits(4), waits(32)
    assert many < few + 16, f"{few} waits for 4 images, {many} for 32"


def test_a_part_is_timed_by_the_gpus_clock() -> None:
    part = timing.profile(GPU)
    with part:
        torch.cuda._sleep(50_000_000)
    assert 0.005 < part.t < 1
