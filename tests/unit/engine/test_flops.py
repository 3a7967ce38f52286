# SPDX-License-Identifier: AGPL-3.0-or-later
"""The operations that are printed of a model on a GPU are those that ultralytics counts on the CPU, to the last digit."""

from __future__ import annotations

import copy

import pytest
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import get_flops

from yolov12.engine.flops import on_cpu
from yolov12.model import attention, fused


def elsewhere(model: nn.Module) -> nn.Module:
    """A copy whose weights are on a device that is not the CPU and whose values nobody can read."""
    return nn.Module._apply(copy.deepcopy(model), lambda tensor: tensor.to("meta"))


@pytest.mark.parametrize("name", ["yolo12n.yaml", "yolo11n.yaml"])
def test_they_are_ultralytics_own_fused_and_not(name):
    attention.install()
    fused.install()
    model = DetectionModel(name, verbose=False)
    for of in (model, copy.deepcopy(model).eval().fuse(verbose=False)):
        counted = elsewhere(of)
        assert on_cpu(counted) == get_flops(of) > 5
        assert on_cpu(counted, [320, 640]) == get_flops(of, [320, 640])
        assert all(parameter.is_meta for parameter in counted.parameters())
        assert next(counted.parameters()).requires_grad == next(of.parameters()).requires_grad


def test_a_model_on_the_cpu_is_counted_where_it_is():
    model = DetectionModel("yolo11n.yaml", verbose=False)
    assert on_cpu(model, 96) == get_flops(model, 96)


def test_another_kind_of_model_is_counted_by_ultralytics_alone():
    assert on_cpu(nn.Linear(2, 2)) == get_flops(nn.Linear(2, 2)) == 0
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert on_cpu(model) == get_flops(model) > 0
