# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests of networks in inference share: layers as `fuse()` leaves them, and our forwards put in and taken out again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from tests.unit.model.our_forwards import fused_installed
from yolov12.model import blocks, fused


def folded(module: nn.Module) -> nn.Module:
    """A copy as `fuse()` leaves its convolutions (nn/tasks.py:240), with biases and channels_last."""
    made = copy.deepcopy(module).eval().requires_grad_(False)
    for part in made.modules():
        if isinstance(part, Conv):
            conv = part.conv
            part.conv = nn.Conv2d(
                *(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation),
                conv.groups,
            ).requires_grad_(False)
            part.forward = part.forward_fuse
    return made.to(memory_format=torch.channels_last)


@contextmanager
def blocks_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Single kernels are asked for, and blocks made of them are there."""
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", "1")
    with fused_installed():
        blocks.install()
        yield
        blocks.uninstall()


def upstreams(module: nn.Module, x: Tensor) -> Tensor:
    """module(x) by upstream's own forwards of blocks, where ours are installed."""
    blocks.uninstall()
    try:
        return module(x)
    finally:
        blocks.install()


def answers_of_both() -> tuple[Tensor, Tensor]:
    """(ours, upstream's) of a whole network, where `fused` is installed."""
    torch.manual_seed(0)
    network = DetectionModel("yolo12n.yaml", nc=8, verbose=False).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        plain = copy.deepcopy(network).to(memory_format=torch.channels_last)
        fused.uninstall()
        theirs = plain.fuse(verbose=False)(x)[0]
        fused.install()
        ours = network.to(memory_format=torch.channels_last).fuse(verbose=False)(x)[0]
    return ours, theirs
