# SPDX-License-Identifier: AGPL-3.0-or-later
"""A convolution with all that follows it in one kernel: which ones, and what they compute, by a stand-in. On a GPU: tests/gpu/test_fused_conv.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv, DWConv

from tests.unit.model import one_kernel_stand_in
from tests.unit.model.inference_networks import answers_of_both, folded
from tests.unit.model.one_kernel_stand_in import Call
from yolov12.model import fused
from yolov12.model.fused import inference, one_kernel


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", "1")
    fused.install()
    yield
    fused.uninstall()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    monkeypatch.setattr(inference, "is_undisturbed", lambda x: True)
    monkeypatch.setattr(inference, "_is_ordinary", lambda module, x: False)
    return one_kernel_stand_in.install(monkeypatch)


def picture(channels: int = 16) -> Tensor:
    return torch.randn(2, channels, 8, 9).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "module",
    [
        Conv(16, 24, 3),
        Conv(16, 24, 1),
        Conv(16, 8, 3, 2),
        Conv(16, 24, 1, act=False),
        DWConv(16, 16, 3),
        Conv(16, 16, 7, 1, 3, g=16, act=False),
    ],
    ids=repr,
)
def test_a_conv_is_one_kernel_with_upstreams_answer(calls, module):
    module, x = folded(module), picture()
    with torch.inference_mode():
        ours, theirs = module(x), inference._upstream_forward_fuse(module, x)
    assert [call.out for call in calls] == [tuple(theirs.shape)]
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours.stride() == theirs.stride()


def test_some_channels_are_read_and_written_where_they_lie(calls):
    module, whole = folded(Conv(16, 24, 3)), torch.randn(2, 8, 9, 48).permute(0, 3, 1, 2)
    x, residual = whole[:, 8:24], whole[:, 24:]
    out = torch.zeros(2, 8, 9, 40).permute(0, 3, 1, 2)
    with torch.inference_mode():
        made = one_kernel.convolved(module.conv, module.act, x, residual, out[:, 16:])
        expected = residual + inference._upstream_forward_fuse(module, x)
    assert torch.allclose(out[:, 16:], expected, atol=1e-6)
    assert made.data_ptr() == out[:, 16:].data_ptr()
    assert not out[:, :16].any()


@pytest.mark.parametrize(
    "module",
    [
        DWConv(16, 16, 3, 2),
        DWConv(16, 32, 3),
        DWConv(16, 16, 9),
        Conv(16, 24, 5),
        Conv(16, 24, 3, d=2),
        Conv(16, 24, 3, g=2),
        Conv(16, 24, 3, p=0),
        Conv(16, 20, 3),
        Conv(16, 24, 3, act=nn.ReLU()),
    ],
    ids=repr,
)
def test_other_convolutions_are_left_to_others(calls, module):
    module, x = folded(module), picture()
    with torch.inference_mode():
        assert torch.allclose(module(x), inference._upstream_forward_fuse(module, x), atol=1e-6)
    assert not calls


def without_bias(module: Conv) -> None:
    module.conv.bias = None


def with_a_hook(module: Conv) -> None:
    module.conv.register_forward_hook(lambda *_: None)


def with_a_heard_activation(module: Conv) -> None:
    module.act.register_forward_pre_hook(lambda *_: None)


def with_mirrored_edges(module: Conv) -> None:
    module.conv.padding_mode = "reflect"


def in_planes(module: Conv) -> None:
    module.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("change", [without_bias, with_a_hook, with_a_heard_activation, with_mirrored_edges, in_planes])
def test_a_conv_that_is_not_plain_is_left_to_others(calls, change):
    module, x = folded(Conv(16, 24, 3)), picture()
    change(module)
    with torch.inference_mode():
        module(x)
    assert not calls


def test_another_type_is_left_to_others(calls):
    module = folded(Conv(16, 24, 3)).double()
    assert one_kernel.convolved(module.conv, module.act, picture()) is None


def test_a_whole_network_is_upstreams(calls):
    ours, theirs = answers_of_both()
    assert len(calls) > 80
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_on_the_cpu_nothing_is_ours():
    assert not one_kernel.is_undisturbed(picture())
