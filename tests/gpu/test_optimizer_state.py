# SPDX-License-Identifier: AGPL-3.0-or-later
"""State of a run on a CPU goes on in the fused kernels of a GPU, whose weights lie otherwise in memory. Needs an NVIDIA GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import Optimizer
from ultralytics.models.yolo.detect import DetectionTrainer

from tests.unit.engine.test_optimizer_state import NAMES, Net
from yolov12.engine.optimizer_state import allocate


def updated(net: Net, name: str, before: Optimizer | None = None) -> Optimizer:
    """The net's optimizer, going on where another stands, after one more update."""
    optimizer = DetectionTrainer.build_optimizer(None, net, name=name, lr=0.01, momentum=0.9, decay=5e-4)
    if before is not None:
        saved = copy.deepcopy(before.state_dict())
        for its, group in zip(saved["param_groups"], optimizer.param_groups, strict=True):
            its["fused"] = group.get("fused")  # as engine/trainer.py:1075
        optimizer.load_state_dict(saved)
        allocate(optimizer)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", NAMES)
def test_an_update_goes_on_with_state_that_a_cpu_wrote(name: str) -> None:
    torch.manual_seed(0)
    host = Net()
    before = updated(host, name)
    device = Net().to("cuda", memory_format=torch.channels_last)
    device.load_state_dict(host.state_dict())
    updated(device, name, before)
    updated(host, name, before)
    for ours, theirs in zip(device.parameters(), host.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5)
