# SPDX-License-Identifier: AGPL-3.0-or-later
"""The kernel that finds what stands of a validation's candidates, against torch's operations, to the bit. Needs one NVIDIA GPU and the package
yolov12_kernels.

python -m pytest tests/gpu/test_survive.py
"""

from __future__ import annotations

import pytest
import torch

from tests.gpu.compiled import skip_without_code
from tests.unit.docker.test_survive_on_host import crowd
from tests.unit.engine.scoring.test_suppression import predictions
from yolov12.engine.scoring import suppression, survive

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _kernels() -> None:
    skip_without_code()


@pytest.mark.parametrize("iou", [0.0, 0.45, 0.7, 1.0])
@pytest.mark.parametrize(("images", "most", "spread"), [(1, 30_000, 4000.0), (64, 3000, 600.0), (16, 257, 40.0)])
def test_what_stands_is_what_stands_by_torchs_operations(
    images: int, most: int, spread: float, iou: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, ranked, lengths = crowd(images + most, images, most, spread)
    boxes, ranked = boxes.to(GPU), ranked.to(GPU)
    assert survive.serves(boxes, 300)
    kept, counts = suppression._survivors(boxes, ranked, lengths, iou, 300)
    monkeypatch.setattr(survive, "serves", lambda boxes, limit: False)
    expected, expected_counts = suppression._survivors(boxes, ranked, lengths, iou, 300)
    assert counts == expected_counts
    assert torch.equal(kept, expected)


def test_a_batchs_rows_are_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = predictions(32, 80, 2000, seed=3, objects=60).to(GPU)
    rows, counts = suppression.batched_nms(prediction, 0.001, 0.7)
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", "0")
    expected, expected_counts = suppression.batched_nms(prediction, 0.001, 0.7)
    assert counts == expected_counts
    assert torch.equal(rows, expected)


def test_an_image_without_candidates_has_none() -> None:
    ranked = torch.zeros((2, 0), dtype=torch.int64, device=GPU)
    kept, counts = survive.survivors(torch.zeros((0, 4), device=GPU), ranked, [0, 0], 0.7, 300)
    assert (kept.numel(), counts) == (0, [0, 0])
