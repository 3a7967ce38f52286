# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bias and SiLU in one pass: which calls are served, and what they compute, by a stand-in for the kernel. On a GPU: tests/gpu/test_predict.py."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules.conv import Conv, DWConv

from tests.unit.model.inference_networks import answers_of_both, folded
from yolov12.model import fused
from yolov12.model.fused import beside, inference


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "1")
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", "0")
    fused.install()
    yield
    fused.uninstall()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Makes the CPU a GPU with kernels; the shapes that they were called with."""
    shapes: list[tuple[int, ...]] = []

    def biased_silu(y: Tensor, constants: Tensor) -> Tensor:
        shapes.append(tuple(y.shape))
        mean, inverse_deviation, scale, shift = constants
        assert not mean.any()
        assert (inverse_deviation == 1).all()
        return F.silu(y.float() * scale[:, None, None] + shift[:, None, None]).to(y.dtype)

    monkeypatch.setattr(inference, "is_undisturbed", lambda x: True)
    monkeypatch.setattr(
        inference, "_is_rows", lambda y: y.is_contiguous(memory_format=torch.channels_last) and y.shape[1] % 8 == 0
    )
    monkeypatch.setattr(inference, "_biased_silu", biased_silu)
    return shapes


def picture(channels: int = 16, size: int = 8) -> Tensor:
    return torch.randn(2, channels, size, size + 1).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "module", [Conv(16, 24, 3), Conv(16, 24, 1), Conv(16, 24, 3, 2), DWConv(16, 16, 7), Conv(16, 24, 3, d=2)], ids=repr
)
def test_the_output_is_upstreams(served, module):
    module, x = folded(module), picture()
    with torch.inference_mode():
        ours, theirs = module(x), inference._upstream_forward_fuse(module, x)
    assert served
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours.stride() == theirs.stride()


def test_an_output_that_the_kernel_can_not_walk_over_is_upstreams_to_the_bit(served):
    module, x = folded(Conv(16, 20, 3)), picture()
    with torch.inference_mode():
        assert torch.equal(module(x), inference._upstream_forward_fuse(module, x))
    assert not served


def test_a_whole_network_is_upstreams(served):
    ours, theirs = answers_of_both()
    assert len(served) > 70
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_it_is_not_there_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    fused.uninstall()
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "0")
    fused.install()
    assert Conv.forward_fuse is inference.forward_fuse


@pytest.mark.parametrize(("one_pass", "one_kernel"), [(False, False), (True, False), (True, True)])
def test_a_fused_network_is_pickled_with_the_name_that_stock_has(one_pass: bool, one_kernel: bool):
    inference.install(one_pass, one_kernel)
    module = folded(Conv(16, 24, 3))
    assert module.forward.__func__ is Conv.forward_fuse
    assert module.forward.__reduce__() == (getattr, (module, "forward_fuse"))


def test_on_the_cpu_upstreams_own_runs(monkeypatch):
    monkeypatch.setattr(inference, "_biased_silu", None)
    module, x = folded(Conv(16, 24, 3)), picture()
    with torch.inference_mode():
        assert torch.equal(module(x), inference._upstream_forward_fuse(module, x))


def without_bias(module: Conv) -> None:
    module.conv.bias = None


def with_hook(module: Conv) -> None:
    module.act.register_forward_hook(lambda *_: None)


def with_another_activation(module: Conv) -> None:
    module.act = nn.ReLU()


def with_mirrored_edges(module: Conv) -> None:
    module.conv.padding_mode = "reflect"


def in_double(module: Conv) -> None:
    module.double()


@pytest.mark.parametrize("change", [without_bias, with_hook, with_another_activation, with_mirrored_edges, in_double])
def test_a_conv_that_is_not_ordinary_is_left_to_upstream(change):
    module = folded(Conv(16, 24, 3))
    assert inference._is_ordinary(module, picture())
    change(module)
    assert not inference._is_ordinary(module, picture())


def test_a_network_with_channels_first_is_left_to_upstream():
    module = folded(Conv(16, 24, 3)).to(memory_format=torch.contiguous_format)
    assert not inference._is_ordinary(module, picture().contiguous())
    assert inference._is_ordinary(module, picture()), "the input decides as well, as in torch"


def test_a_bias_that_changed_is_read_again(served):
    module, x = folded(Conv(16, 24, 3)), picture()
    with torch.no_grad():
        module(x)
        module.conv.bias += 1
        assert torch.allclose(module(x), inference._upstream_forward_fuse(module, x), atol=1e-6)


def test_what_is_kept_beside_a_network_is_told_and_goes_with_it(served):
    network = nn.Sequential(folded(Conv(16, 24, 3)), folded(Conv(24, 16, 1)))
    assert beside.kept_for(network) == []
    with torch.inference_mode():
        network(picture())
    assert [len(constants[0]) for constants in beside.kept_for(network)] == [24, 16]
    gc.collect()  # what other tests left
    before = len(beside._kept)
    del network
    gc.collect()
    assert len(beside._kept) == before - 2


def test_a_pickled_network_knows_nothing_of_it():
    module = folded(Conv(16, 24, 3))
    assert b"yolov12" not in pickle.dumps(module)
