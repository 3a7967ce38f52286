# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/survive.cu, compiled for the CPU by g++: what stands by torch's operations (yolov12/engine/scoring/suppression.py). On a GPU:
tests/gpu/test_survive.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.docker.on_host import compiled
from yolov12.engine.scoring import suppression, survive


@pytest.fixture(scope="module")
def library(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(repository / "docker/kernels", "survive", tmp_path_factory.mktemp("survive"), launches=1)


@pytest.fixture(autouse=True)
def _thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, whose kernels round the threshold."""
    monkeypatch.setattr(suppression, "comparable", lambda iou, device: float(np.float32(iou)))


def ours(
    library: ctypes.CDLL, boxes: Tensor, ranked: Tensor, lengths: list[int], iou: float, limit: int
) -> tuple[Tensor, list[int]]:
    images, most = ranked.shape
    kept, counts = torch.full((images, limit), -7), torch.full((images,), -7, dtype=torch.int32)
    of = torch.tensor(lengths, dtype=torch.int32)
    addresses = [ctypes.c_void_p(one.data_ptr()) for one in (boxes, ranked, of)]
    library.survive_boxes(
        *addresses,
        images,
        most,
        ctypes.c_float(iou),
        limit,
        *(ctypes.c_void_p(one.data_ptr()) for one in (kept, counts)),
    )
    assert ((kept >= 0).sum(1) == counts).all()
    return kept[kept >= 0], counts.tolist()


def crowd(seed: int, images: int, most: int, spread: float) -> tuple[Tensor, Tensor, list[int]]:
    """Boxes of coarse numbers, so that many overlaps are equal; how many of an image count differs."""
    generator = torch.Generator().manual_seed(seed)
    corner = (spread * torch.rand(images * most, 2, generator=generator)).round()
    boxes = torch.cat((corner, corner + 8 * torch.randint(1, 8, (images * most, 2), generator=generator)), 1)
    ranked = torch.stack([image * most + torch.randperm(most, generator=generator) for image in range(images)])
    lengths = torch.randint(0, most + 1, (images,), generator=generator).tolist()
    return boxes.contiguous(), ranked.contiguous(), lengths


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 3),
    most=st.integers(1, 700),
    spread=st.sampled_from([20.0, 200.0, 4000.0]),
    iou=st.sampled_from([0.0, 0.3, 0.6, 0.7, 1.0]),
    limit=st.sampled_from([1, 7, 100, 300, 1024]),
)
def test_what_stands_is_what_stands_by_torchs_operations(library, seed, images, most, spread, iou, limit):
    boxes, ranked, lengths = crowd(seed, images, most, spread)
    kept, counts = ours(library, boxes, ranked, lengths, iou, limit)
    expected, expected_counts = suppression._survivors(boxes, ranked, lengths, iou, limit)
    assert counts == expected_counts
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("boxes", [255, 256, 257, 600])
def test_a_chain_in_which_each_falls_on_the_one_before_is_gone_through_to_its_end(library, boxes: int):
    left = 4.0 * torch.arange(boxes)
    chain = torch.stack((left, torch.zeros(boxes), left + 16, torch.full((boxes,), 16.0)), 1)
    kept, counts = ours(library, chain, torch.arange(boxes)[None], [boxes], 0.5, 1024)
    assert kept.tolist() == list(range(0, boxes, 2))
    assert counts == [(boxes + 1) // 2]


def test_a_box_that_is_no_number_suppresses_nothing(library):
    boxes = torch.tensor([[0, 0, 10, 10], [torch.nan, 0, 10, 10], [0, 0, 10, 10]])
    kept, counts = ours(library, boxes, torch.tensor([[1, 0, 2]]), [3], 0.5, 10)
    assert (kept.tolist(), counts) == ([1, 0], [2])


def test_python_asks_for_no_more_than_the_kernel_has_room_for(repository: Path):
    assert f"constexpr int kMostStanding = {survive.MOST};" in (repository / "docker/kernels/survive.h").read_text()
