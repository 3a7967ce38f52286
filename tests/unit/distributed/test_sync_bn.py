# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synchronised batch norm in one process: what torch.compile makes of it. Its numbers over two ranks are in tests/dist."""

from __future__ import annotations

import copy

import torch
from torch import nn

from yolov12.distributed.sync_bn import synchronise


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu()


def test_no_compiled_graph_holds_it():
    model = Model()
    synced, names = copy.deepcopy(model), []
    assert synchronise(synced) == 1

    def backend(module, inputs):
        names.extend(getattr(node.target, "__name__", str(node.target)) for node in module.graph.nodes)
        return module.forward

    x = torch.randn(2, 3, 8, 8)
    torch._dynamo.reset()
    made = torch.compile(synced, backend=backend)(x)
    assert torch.equal(made, model(x))
    assert {"conv2d", "relu"} <= set(names)
    assert not any("batch_norm" in name for name in names), names
