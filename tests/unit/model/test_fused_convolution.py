# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which convolutions our kernels may take, and that on a CPU all are torch's.

The kernels themselves: tests/gpu/test_depthwise.py, tests/gpu/test_stem.py.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import parse_model, yaml_model_load

from yolov12 import compiled
from yolov12.model import fused
from yolov12.model.fused import convolution
from yolov12.model.fused.convolution import Geometry, by_our_kernel, convolve, gradients, is_stem, keeps_size

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


def is_our_stem(conv: nn.Conv2d) -> bool:
    return is_stem(conv.weight, Geometry.of(conv))


@pytest.mark.parametrize("name", ["yolo12n", "yolo12x", "yolo11s", "yolov8m", "yolov10x"])
def test_networks_begin_with_a_stem_and_have_no_other(name):
    with torch.device("meta"):
        network, _ = parse_model(yaml_model_load(f"{name}.yaml"), ch=3, verbose=False)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert is_our_stem(convolutions[0])
    assert not any(is_our_stem(conv) for conv in convolutions[1:])


@pytest.mark.parametrize(
    "other",
    [
        {"in_channels": 4},
        {"out_channels": 24},
        {"out_channels": 112},
        {"kernel_size": 6, "padding": 2},
        {"stride": 1},
        {"padding": 0},
        {"dilation": 2, "padding": 2},
        {"in_channels": 9, "out_channels": 48, "groups": 3},
    ],
    ids=str,
)
def test_other_first_convolutions_are_left_to_torch(other):
    usual = {"in_channels": 3, "out_channels": 16, "kernel_size": 3, "stride": 2, "padding": 1, "bias": False}
    assert is_our_stem(nn.Conv2d(**usual))
    assert not is_our_stem(nn.Conv2d(**(usual | other)))


@pytest.fixture
def stem_ops(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Stand-ins for the kernels of a stem; how often each was called."""
    calls: Counter[str] = Counter()

    def stem(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls["stem"] += 1
        return torch.nn.functional.conv2d(x, weight, bias, 2, 1)

    def stem_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        calls["stem_weight_gradient"] += 1
        return convolution._gradients_by_torch(grad, x, weight, Geometry((2, 2), (1, 1), (1, 1), 1), False, True)[1]

    ops = SimpleNamespace(
        stem=stem,
        stem_weight_gradient=stem_weight_gradient,
        is_stem=lambda x, weight: x.dtype == weight.dtype,
        is_rows=lambda grad: True,
    )
    monkeypatch.setattr(torch.ops, "yolov12_kernels", ops)
    monkeypatch.setattr(convolution, "kernels_missing", lambda device: None)
    return calls


@pytest.fixture
def stem_calls(stem_ops: Counter[str], monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Makes the CPU a GPU with kernels for stems."""
    monkeypatch.setattr(convolution, "_is_served_stem", lambda x, weight, geometry: is_stem(weight, geometry))
    return stem_ops


@pytest.mark.parametrize("asks_for_pictures", [False, True])
def test_a_stem_in_training_is_ours_and_torch_makes_the_gradient_of_pictures(stem_calls, asks_for_pictures):
    torch.manual_seed(0)
    module, x = Conv(3, 16, 3, 2), torch.rand(2, 3, 9, 12, requires_grad=asks_for_pictures)
    grads = []
    for choices in ({}, {module: fused.Keep.BOTH}):
        module.zero_grad()
        x.grad = None
        fused.install()
        fused.choose(choices)
        try:
            module(x).square().sum().backward()
        finally:
            fused.choose({})
            fused.uninstall()
        grads.append([module.conv.weight.grad.clone(), x.grad])
    assert stem_calls == {"stem": 1, "stem_weight_gradient": 1}
    torch.testing.assert_close(grads[1], grads[0])
    assert (grads[1][1] is not None) == asks_for_pictures


class OnAGpu(Tensor):
    """A tensor of the CPU that says something else."""

    is_cuda = True


LAYOUTS = {"planes": torch.contiguous_format, "pixels": torch.channels_last}


@pytest.mark.parametrize("weights_lie", LAYOUTS)
@pytest.mark.parametrize("pictures_lie", LAYOUTS)
def test_a_stem_is_ours_where_torch_would_write_channels_last(stem_ops, pictures_lie, weights_lie):
    conv = nn.Conv2d(3, 16, 3, 2, 1).to(memory_format=LAYOUTS[weights_lie])
    x = torch.rand(2, 3, 9, 12).contiguous(memory_format=LAYOUTS[pictures_lie])
    is_ours = "pixels" in (pictures_lie, weights_lie)
    assert convolution._is_served_stem(x.as_subclass(OnAGpu), conv.weight, Geometry.of(conv)) == is_ours
    with torch.no_grad():
        found = by_our_kernel(conv, x.as_subclass(OnAGpu))
        assert torch.equal(found, conv(x)) if is_ours else found is None
    assert by_our_kernel(conv, x.as_subclass(OnAGpu)) is None, "in training it is another operation"
    assert stem_ops == ({"stem": 1} if is_ours else {})


@pytest.mark.parametrize(
    ("channels", "dtype", "is_ours"),
    [(16, torch.float32, True), (64, torch.float32, False), (64, torch.bfloat16, True), (96, torch.float16, True)],
    ids=str,
)
def test_a_wide_stem_is_ours_where_tensor_cores_compute_it(stem_ops, channels, dtype, is_ours):
    conv = nn.Conv2d(3, channels, 3, 2, 1, bias=False).to(dtype, memory_format=torch.channels_last)
    x = torch.rand(1, 3, 8, 16).to(dtype).as_subclass(OnAGpu)
    assert convolution._is_served_stem(x, conv.weight, Geometry.of(conv)) == is_ours


@pytest.mark.parametrize("other", [{"stride": 1}, {"in_channels": 4}, {"padding_mode": "reflect"}], ids=str)
def test_what_is_no_stem_is_torchs_outside_of_training_too(stem_ops, other):
    usual = {"in_channels": 3, "out_channels": 16, "kernel_size": 3, "stride": 2, "padding": 1}
    conv = nn.Conv2d(**(usual | other)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert by_our_kernel(conv, torch.rand(1, conv.in_channels, 8, 8).as_subclass(OnAGpu)) is None


def test_a_frozen_stem_has_only_the_gradient_that_is_asked_for(stem_calls):
    conv = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    weight, grad = conv.weight.detach(), torch.randn(1, 16, 4, 4)
    stand_in = grad.new_empty(1).expand(1, 3, 8, 8)
    grad_x, grad_weight = gradients(grad, stand_in, weight, Geometry.of(conv), True, False)
    assert grad_x is not None
    assert grad_x.shape == (1, 3, 8, 8)
    assert grad_weight is None
    assert not stem_calls


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
