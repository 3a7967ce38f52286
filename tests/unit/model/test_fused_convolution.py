# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which convolutions our kernels may take, and that on a CPU all are torch's; the kernels themselves: tests/gpu/test_depthwise.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from yolov12 import compiled
from yolov12.model.fused.convolution import Geometry, by_our_kernel, convolve, gradients, keeps_size

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9])
def test_one_filter_for_each_channel_that_keeps_the_size(side):
    conv = nn.Conv2d(16, 16, side, padding=side // 2, groups=16, bias=False)
    assert keeps_size(conv.weight, Geometry.of(conv))


@pytest.mark.parametrize(
    "other",
    [
        {"groups": 8},
        {"groups": 1},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"kernel_size": 4},
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"out_channels": 32},
    ],
    ids=str,
)
def test_others_are_left_to_torch(other):
    usual = {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1, "groups": 16, "bias": False}
    conv = nn.Conv2d(**(usual | other))
    assert not keeps_size(conv.weight, Geometry.of(conv))


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(("needs_x", "needs_weight"), [(True, True), (True, False), (False, True)])
def test_on_a_cpu_output_and_gradients_are_torchs(groups, needs_x, needs_weight):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    expected = conv(x)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    weight, geometry = conv.weight.detach(), Geometry.of(conv)
    assert torch.equal(convolve(x.detach(), weight, geometry), expected)
    seen = x.detach() if needs_weight else grad.new_empty(1).expand(x.shape)
    grad_x, grad_weight = gradients(grad, seen, weight, geometry, needs_x, needs_weight)
    for found, of, is_needed in ((grad_x, x, needs_x), (grad_weight, conv.weight, needs_weight)):
        assert torch.equal(found, of.grad) if is_needed else found is None


def test_outside_of_training_too_a_cpu_has_torchs():
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    with torch.no_grad():
        assert by_our_kernel(conv, torch.randn(1, 8, 4, 4)) is None


def test_the_ops_that_are_called_are_those_that_are_built():
    spec = importlib.util.spec_from_file_location("kernels_build", ROOT / "docker/kernels/build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.VERSION == compiled.OPS
