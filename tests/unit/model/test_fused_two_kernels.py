# SPDX-License-Identifier: AGPL-3.0-or-later
"""Large and deep convolutions by cuDNN and one pass: which ones, and what they compute, by a stand-in. On a GPU: tests/gpu/test_fused_conv.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules.block import C3, A2C2f, C3k2
from ultralytics.nn.modules.conv import Conv

from tests.unit.model import one_kernel_stand_in
from tests.unit.model.inference_networks import answers_of_both, blocks_installed, folded, upstreams
from tests.unit.model.one_kernel_stand_in import Call, is_rows
from yolov12.model.blocks import attention, joint
from yolov12.model.fused import inference, one_kernel, two_kernels


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with blocks_installed(monkeypatch):
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Of the one kernel, whose part the pass takes wherever it can."""
    for module in (inference, joint):
        monkeypatch.setattr(module, "is_undisturbed", lambda x: True)
    monkeypatch.setattr(inference, "_is_ordinary", lambda module, x: False)
    monkeypatch.setattr(attention, "_takes_heads", lambda q, k, v: False)
    return one_kernel_stand_in.install(monkeypatch)


@pytest.fixture
def passes(calls, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    return one_kernel_stand_in.install_two(monkeypatch)


def picture(channels: int = 64, images: int = 2) -> Tensor:
    return torch.randn(images, channels, 8, 8).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_it_is_the_convolution_with_what_follows(passes, stride, silu, with_residual):
    module, x = folded(Conv(64, 24, 3, stride, act=silu)), picture()
    whole = torch.zeros(2, 8 // stride, 8 // stride, 40).permute(0, 3, 1, 2)
    out = whole[:, 16:]
    residual = torch.randn(out.shape) if with_residual else None
    with torch.inference_mode():
        made = one_kernel.convolved(module.conv, module.act, x, residual, out)
        expected = F.conv2d(x, module.conv.weight, module.conv.bias, stride, 1)
        expected = F.silu(expected) if silu else expected
        expected = expected if residual is None else residual + expected
    assert passes == [tuple(out.shape)]
    assert made is out
    assert torch.allclose(out, expected, atol=1e-5)
    assert not whole[:, :16].any()


def test_what_is_added_may_lie_where_the_answer_goes(passes):
    module, x = folded(Conv(64, 64, 3)), picture()
    with torch.inference_mode():
        expected = x + inference._upstream_forward_fuse(module, x)
        assert torch.allclose(one_kernel.convolved(module.conv, module.act, x, x, x), expected, atol=1e-5)


@pytest.mark.parametrize("block", [C3k2(64, 32, 1, True), C3(64, 32, 1), A2C2f(64, 128, 1, True, 4)], ids=repr)
def test_blocks_answer_as_upstreams(calls, passes, block):
    module, x = folded(block), picture()
    with torch.inference_mode():
        ours = module(x)
        assert passes
        assert torch.allclose(ours, upstreams(module, x), atol=1e-5)


def test_a_whole_network_is_upstreams(passes):
    ours, theirs = answers_of_both()
    assert len(passes) > 20
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def like_yolov12s(
    in_channels: int, out_channels: int, side: int, size: int, images: int = 32
) -> tuple[Tensor, Tensor, Tensor]:
    """(x, weight, out) without memory."""
    layout = torch.channels_last
    x = torch.empty(images, in_channels, size, size, device="meta", dtype=torch.half, memory_format=layout)
    weight = torch.empty(out_channels, in_channels, side, side, device="meta", dtype=torch.half, memory_format=layout)
    out = torch.empty(images, out_channels, size, size, device="meta", dtype=torch.half, memory_format=layout)
    return x, weight, out


@pytest.mark.parametrize(
    ("shape", "is_two"),
    [
        ((256, 256, 3, 40), True),
        ((64, 64, 3, 40), True),
        ((256, 512, 1, 20), True),
        ((64, 64, 1, 160), False),  # shallow: one kernel reads and writes less
        ((128, 384, 1, 40), False),
        ((64, 64, 3, 40, 1), False),  # of one picture: cuDNN's kernels take microseconds whatever they do
        ((256, 128, 1, 20), False),
    ],
    ids=str,
)
def test_deep_and_large_ones_are_two_kernels(monkeypatch, shape, is_two):
    monkeypatch.setattr(two_kernels, "_is_rows", is_rows)
    x, weight, out = like_yolov12s(*shape)
    assert two_kernels.are_faster(x, weight, 1, out) is is_two


def test_what_would_have_to_be_copied_is_not_for_cudnn(monkeypatch):
    monkeypatch.setattr(two_kernels, "_is_rows", is_rows)
    x, weight, out = like_yolov12s(64, 64, 3, 40)
    wide = like_yolov12s(128, 64, 3, 40)[0]
    assert not two_kernels.are_faster(wide[:, :64], weight, 1, out)
    of_several_levels = torch.empty(32, 8400, 64, device="meta")[:, :1600].view(32, 40, 40, 64).permute(0, 3, 1, 2)
    assert not two_kernels.are_faster(x, weight, 1, of_several_levels)


def test_constants_are_made_once_and_anew_for_other_weights():
    owner = nn.Conv2d(8, 8, 1).requires_grad_(False)
    first = two_kernels.constants_for(owner, owner.bias)
    assert torch.equal(first[3], owner.bias)
    assert two_kernels.constants_for(owner, owner.bias) is first
    owner.bias.add_(1)
    assert torch.equal(two_kernels.constants_for(owner, owner.bias)[3], owner.bias)
