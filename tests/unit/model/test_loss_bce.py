# SPDX-License-Identifier: AGPL-3.0-or-later
"""The classification loss in slices: upstream's values and gradients, without upstream's copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.model.loss_inputs import LiveBytes
from yolov12.model.loss import bce
from yolov12.model.loss.bce import bce_in_slices, slices

TWO_IMAGES = 2 * 256 * bce.BYTES_PER_ELEMENT


def inputs(dtype: torch.dtype, images: int = 5) -> tuple[Tensor, Tensor]:
    """Logits and targets of 64 anchors and 4 classes: a multiple of any vector's length (see the module's docstring)."""
    torch.manual_seed(0)
    targets = (torch.rand(images, 64, 4) * (torch.rand(images, 64, 4) > 0.9)).to(dtype)
    return (torch.randn(images, 64, 4) * 4).to(dtype), targets


def value_and_gradient(function, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = function(leaf, targets)
    (loss.sum() / 3.7).backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, TWO_IMAGES, bce.CHUNK_BYTES])
def test_value_and_gradient_are_torchs_to_the_bit(dtype, autocast, chunk_bytes):
    def torchs(logits: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def ours(logits: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return bce_in_slices(logits, targets, chunk_bytes)

    for mine, theirs in zip(
        value_and_gradient(ours, *inputs(dtype)), value_and_gradient(torchs, *inputs(dtype)), strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


def test_slices_cover_all_images_once():
    logits = inputs(torch.float32)[0]
    assert [list(range(5))[some] for some in slices(logits, TWO_IMAGES)] == [[0, 1], [2, 3], [4]]


def test_no_image_is_no_loss():
    assert bce_in_slices(torch.zeros(0, 64, 4), torch.zeros(0, 64, 4)).shape == (0, 64, 4)


def test_the_loss_can_be_weighted_in_place_as_upstream_does():
    def weighted(function):
        def run(logits: Tensor, targets: Tensor) -> Tensor:
            loss = function(logits, targets)
            loss *= torch.tensor([1.0, 2.0, 0.5, 3.0])
            return loss

        return run

    ours = value_and_gradient(weighted(bce_in_slices), *inputs(torch.float32))
    plain = value_and_gradient(
        weighted(lambda a, b: F.binary_cross_entropy_with_logits(a, b, reduction="none")), *inputs(torch.float32)
    )
    assert torch.equal(ours[0], plain[0])
    assert torch.equal(ours[1], plain[1])


def test_temporaries_stay_below_the_bound():
    logits, targets = torch.randn(32, 1024, 8, dtype=torch.bfloat16).requires_grad_(), torch.zeros(32, 1024, 8)
    bound = 4 * 1024 * 8 * bce.BYTES_PER_ELEMENT
    with LiveBytes() as memory:
        loss = bce_in_slices(logits, targets, bound)
        loss.sum().backward()
    assert memory.peak < loss.nbytes + logits.nbytes + bound
