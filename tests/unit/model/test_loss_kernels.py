# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which criteria our kernels serve, and what they are told of them. What they compute: tests/gpu/test_loss.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss, v8SegmentationLoss

from yolov12.model.loss import kernels

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def a_gpu_with_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "kernels_missing", lambda device: None if device.type == "cuda" else "no GPU")


def criterion(kind: Any = v8DetectionLoss, reg_max: int = 16, **options: Any) -> Any:
    head = SimpleNamespace(stride=torch.tensor([8.0, 16.0, 32.0]), nc=3, reg_max=reg_max)
    model: Any = nn.Linear(1, 1)
    model.model, model.args = [head], get_cfg()
    return kind(model, **options)


def test_upstreams_detection_loss_is_served_on_a_gpu():
    assert kernels.serves_criterion(criterion(), GPU)
    assert not kernels.serves_criterion(criterion(), torch.device("cpu"))


@pytest.mark.parametrize(
    "other",
    [
        lambda: criterion(reg_max=8),
        lambda: criterion(tal_topk=17),
        lambda: criterion(tal_topk2=1),
        lambda: criterion(v8SegmentationLoss),
        lambda: SimpleNamespace(),
        lambda: None,
    ],
)
def test_what_the_kernels_do_not_compute_is_upstreams(other):
    assert not kernels.serves_criterion(other(), GPU)


def test_a_criterion_of_two_is_upstreams():
    assert type(criterion()) is not E2ELoss
    assert not kernels.serves_criterion(object.__new__(E2ELoss), GPU)


def test_a_loss_that_a_script_has_replaced_is_left_alone():
    mine = criterion()
    mine.bce = nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.ones(3))
    assert not kernels.serves_criterion(mine, GPU)


def test_gains_are_read_at_each_loss():
    mine = criterion()
    mine.hyp.box = 3.5
    assert kernels.rules_of(mine).gains[0] == 3.5
    assert kernels.rules_of(mine).strides == [8.0, 16.0, 32.0]
    assert kernels.rules_of(mine).least_side == 16.0


def test_a_row_for_each_object():
    batch = {"batch_idx": torch.tensor([0.0, 1.0]), "cls": torch.tensor([[2.0], [0.0]]), "bboxes": torch.rand(2, 4)}
    rows = kernels.objects_of(batch, torch.device("cpu"))
    assert rows[:, :2].tolist() == [[0, 2], [1, 0]]
    assert torch.equal(rows[:, 2:], batch["bboxes"])


def test_a_criterion_pickles_as_before_while_somebody_listens():
    mine = criterion()
    before = set(vars(mine))
    kernels.listen(mine, lambda *_: None)
    assert set(vars(mine)) == before
    kernels.listen(mine, None)
