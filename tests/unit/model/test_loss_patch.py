# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole detection loss with our parts in it against upstream's: value, items, gradients."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import RotatedTaskAlignedAssigner, TaskAlignedAssigner

from tests.unit.model.loss_inputs import assigner_arguments, criterion, loss_inputs
from yolov12.model import loss
from yolov12.model.loss import patch


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    loss.install()
    yield
    loss.uninstall()


def everything(boxes_per_image: list[int], size: int, classes: int, dtype: torch.dtype, weighted: bool) -> list[Tensor]:
    """Loss, its items and the gradients of both predictions."""
    them = criterion(classes)
    if weighted:
        them.class_weights = torch.linspace(0.5, 2, classes).view(1, 1, -1)
    predictions, batch = loss_inputs(boxes_per_image, size, classes, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        value, items = them(predictions, batch)
    value.sum().backward()
    return [value.detach(), *items.values(), predictions["boxes"].grad, predictions["scores"].grad]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("counts", [[3, 0, 17, 1], [0, 0], [40]])
def test_loss_items_and_gradients_are_upstreams_to_the_bit(counts, dtype, weighted):
    ours = everything(counts, 128, 3, dtype, weighted)
    loss.uninstall()
    for mine, theirs in zip(ours, everything(counts, 128, 3, dtype, weighted), strict=True):
        assert torch.equal(mine, theirs)


def test_the_criterion_has_upstreams_parts_again_after_a_call_and_after_a_failed_one(monkeypatch):
    them = criterion(2)
    them(*loss_inputs([2], 64, 2))
    assert type(them.bce) is nn.BCEWithLogitsLoss
    with pytest.raises(KeyError):
        them(loss_inputs([2], 64, 2)[0], {})
    assert type(them.bce) is nn.BCEWithLogitsLoss
    assert b"yolov12.model.loss" not in pickle.dumps(them)


def runs(monkeypatch: pytest.MonkeyPatch, name: str, call: Any) -> int:
    """How often `patch.<name>` runs in a call."""
    seen, real = [], getattr(patch, name)
    monkeypatch.setattr(patch, name, lambda *a, **k: (seen.append(1), real(*a, **k))[1])
    call()
    return len(seen)


def test_an_ordinary_loss_goes_through_both_parts(monkeypatch):
    them, (predictions, batch) = criterion(2), loss_inputs([2], 64, 2)
    assert runs(monkeypatch, "assign", lambda: them(predictions, batch)) == 1
    assert runs(monkeypatch, "bce_in_slices", lambda: them(predictions, batch)) == 1


@pytest.mark.parametrize(
    "them",
    [
        TaskAlignedAssigner(topk=7, topk2=1, num_classes=2),
        type("SomeoneElses", (TaskAlignedAssigner,), {})(num_classes=2),
    ],
    ids=["a head without NMS", "a subclass"],
)
def test_other_assigners_remain_upstreams(monkeypatch, them):
    assert runs(monkeypatch, "assign", lambda: them(*assigner_arguments([2], 64, 2))) == 0


def test_rotated_boxes_remain_upstreams(monkeypatch):
    scores, predicted, points, labels, gt, mask = assigner_arguments([2], 64, 2)
    angle = torch.zeros_like(gt[..., :1])
    arguments = (scores, torch.cat((predicted, predicted[..., :1] * 0), -1), points, labels, torch.cat((gt, angle), -1))
    them = RotatedTaskAlignedAssigner(num_classes=2)
    assert runs(monkeypatch, "assign", lambda: them(*arguments, mask)) == 0


def test_another_classification_loss_is_left_alone():
    them = criterion(2)
    them.bce = nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor([2.0, 3.0]))
    value = them(*loss_inputs([2], 64, 2))[0]
    loss.uninstall()
    assert torch.equal(value, them(*loss_inputs([2], 64, 2))[0])


def test_install_twice_and_uninstall_leave_upstream():
    loss.install()
    loss.uninstall()
    assert TaskAlignedAssigner.forward.__module__ == "ultralytics.utils.tal"
    assert v8DetectionLoss.get_assigned_targets_and_loss.__module__ == "ultralytics.utils.loss"
