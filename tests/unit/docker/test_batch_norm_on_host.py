# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/batch_norm_act.h, compiled for the CPU by g++: against float64, and which bits are equal. On a GPU: tests/gpu/test_fused.py."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.docker.on_host import compiled

SOURCES = ("batch_norm_apply", "batch_norm_gradient", "batch_norm_statistics")
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""As in batch_norm_act.h."""
TOLERANCE = {torch.float32: 4e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
"""Largest difference from float64 as a share of the largest value."""
SHAPES = [(15, 8), (561, 80), (35, 320), (1100, 16)]
"""(rows, channels). 15 rows are fewer than a block has lines; 320 channels are more than a block has columns; 1100 are several for each thread."""


class Shape(ctypes.Structure):
    _fields_ = (("rows", ctypes.c_int64), ("channels", ctypes.c_int), ("type", ctypes.c_int), ("silu", ctypes.c_int))


class Rows(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64))


class Running(ctypes.Structure):
    _fields_ = (
        ("mean", ctypes.c_void_p),
        ("variance", ctypes.c_void_p),
        ("batches", ctypes.c_void_p),
        ("momentum", ctypes.c_float),
    )


def rows(t: Tensor) -> Rows:
    assert t.stride(1) == 1
    assert t.data_ptr() % 16 == 0
    return Rows(t.data_ptr(), t.stride(0))


def pointer(t: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


class Gradients(NamedTuple):
    y: Tensor
    weight: Tensor
    bias: Tensor


class OnHost(NamedTuple):
    """The compiled code, called as the ops are, for matrices of rows x channels."""

    library: ctypes.CDLL
    multiprocessors: int

    def statistics(self, y: Tensor, norm: nn.BatchNorm1d) -> Tensor:
        constants = torch.empty(4, y.shape[1])
        running = Running(*map(pointer, (norm.running_mean, norm.running_var, norm.num_batches_tracked)), norm.momentum)
        numbers = pointer(norm.weight), pointer(norm.bias), running, pointer(constants)
        self.library.statistics_on_host(shape(y, silu=False), rows(y), *numbers, self.multiprocessors)
        return constants

    def apply(self, y: Tensor, constants: Tensor, silu: bool, out: Tensor, accumulate: bool = False) -> Tensor:
        flag = ctypes.c_bool(accumulate)
        self.library.apply_on_host(shape(y, silu), rows(y), pointer(constants), rows(out), flag)
        return out

    def gradient(self, y: Tensor, grad_out: Tensor, constants: Tensor, silu: bool) -> Gradients:
        made = Gradients(torch.empty_like(y).contiguous(), torch.empty(y.shape[1]), torch.empty(y.shape[1]))
        places = rows(y), rows(grad_out), pointer(constants), rows(made.y), pointer(made.weight), pointer(made.bias)
        self.library.gradient_on_host(shape(y, silu), *places, self.multiprocessors)
        return made


def shape(y: Tensor, silu: bool) -> Shape:
    return Shape(*y.shape, TYPES[y.dtype], silu)


@pytest.fixture(scope="module")
def library(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    kernels, made = repository / "docker/kernels", tmp_path_factory.mktemp("batch_norm_act")
    options = ["-fno-strict-aliasing"]
    return compiled(kernels, "batch_norm_act", made, launches=7, options=options, instead=SOURCES)


@pytest.fixture
def on_host(library: ctypes.CDLL) -> OnHost:
    return OnHost(library, multiprocessors=1)


def normal(*size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def batch_norm(channels: int) -> nn.BatchNorm1d:
    """As YOLO's, with weights, one of them zero, and biases that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(channels)
    norm = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.03)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5, generator=generator)[3] = 0.0
        norm.bias.uniform_(-1, 1, generator=generator)
    return norm


def assert_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    difference = (got.double() - expected).abs().max().item()
    largest = expected.abs().max().item()
    assert difference <= tolerance * largest, f"{what}: {difference:.3e} of {largest:.3e}"


@pytest.mark.parametrize("silu", [True, False], ids=["silu", "plain"])
@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_values_gradients_and_running_statistics_agree_with_float64(on_host, dtype, size, silu):
    channels = size[1]
    y, grad, norm = 1.7 * normal(*size, dtype=dtype) + 1, normal(*size, dtype=dtype, seed=1), batch_norm(channels)
    exact, leaf = batch_norm(channels).double(), y.double().requires_grad_()
    expected = F.silu(exact(leaf)) if silu else exact(leaf)
    expected.backward(grad.double())

    constants = on_host.statistics(y, norm)
    gradients = on_host.gradient(y, grad, constants, silu)
    out = on_host.apply(y, constants, silu, torch.empty_like(y))

    assert_close(out, expected.detach(), TOLERANCE[dtype], "output")
    assert_close(gradients.y, leaf.grad, TOLERANCE[dtype], "gradient of y")
    assert_close(gradients.weight, exact.weight.grad, 1e-5, "gradient of the weight")
    assert_close(gradients.bias, exact.bias.grad, 1e-5, "gradient of the bias")
    assert_close(norm.running_mean, exact.running_mean, 2e-6, "running mean")
    assert_close(norm.running_var, exact.running_var, 2e-6, "running variance")
    assert norm.num_batches_tracked == 1


def test_a_mean_far_from_zero_swallows_neither_variance_nor_gradient(on_host):
    y, grad, norm = normal(561, 16, dtype=torch.float32) + 1000, normal(561, 16, dtype=torch.float32), batch_norm(16)
    exact, leaf = batch_norm(16).double(), y.double().requires_grad_()
    F.silu(exact(leaf)).backward(grad.double())
    got = on_host.gradient(y, grad, on_host.statistics(y, norm), silu=True)
    assert_close(norm.running_var, exact.running_var, 2e-6, "running variance")
    # The last place of y itself is 6e-5 of its deviation.
    assert_close(got.y, leaf.grad, 2e-4, "gradient of y")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_where_the_exponential_overflows_silu_and_its_slope_are_still_right(on_host, dtype):
    y = torch.linspace(-300, 300, 150 * 16).reshape(150, 16).to(dtype)
    mean, inverse_deviation, scale, shift = 0.0, 1.0, 1.0, 0.0
    constants = torch.tensor([mean, inverse_deviation, scale, shift])[:, None].repeat(1, 16)
    leaf = y.double().requires_grad_()
    expected = F.silu(leaf)
    expected.sum().backward()
    assert_close(on_host.apply(y, constants, True, torch.empty_like(y)), expected.detach(), TOLERANCE[dtype], "output")
    got = on_host.gradient(y, torch.ones_like(y), constants, silu=True)
    assert_close(got.bias, leaf.grad.sum(0), 1e-5, "gradient of the bias")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_added_or_of_some_channels_has_the_bits_of_the_whole(on_host, dtype):
    """So that what is rebuilt for backward is what forward made, and nothing beside it is touched."""
    y, wide, norm = normal(561, 80, dtype=dtype), normal(561, 96, dtype=dtype, seed=1), batch_norm(80)
    constants = on_host.statistics(y, norm)
    whole = on_host.apply(y, constants, True, torch.empty_like(y))
    expected = wide.clone()
    expected[:, 16:48] += whole[:, 40:72]
    on_host.apply(y[:, 40:72], constants[:, 40:72].contiguous(), True, wide[:, 16:48], accumulate=True)
    assert torch.equal(wide, expected)


def test_equal_inputs_give_equal_bits(on_host):
    y, grad, norm = normal(561, 80, dtype=torch.float32), normal(561, 80, dtype=torch.float32, seed=1), batch_norm(80)
    first, second = (on_host.gradient(y, grad, on_host.statistics(y, norm), True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_larger_gpu_only_adds_up_in_another_order(library):
    y, grad = normal(1100, 80, dtype=torch.float32), normal(1100, 80, dtype=torch.float32, seed=1)
    small, large = OnHost(library, 1), OnHost(library, 3)
    constants = small.statistics(y, batch_norm(80))
    assert_close(large.statistics(y, batch_norm(80)), constants.double(), 1e-6, "constants")
    outputs = [gpu.apply(y, constants, True, torch.empty_like(y)) for gpu in (small, large)]
    assert torch.equal(*outputs)
    gradients = [gpu.gradient(y, grad, constants, True) for gpu in (small, large)]
    for name, a, b in zip(Gradients._fields, *gradients, strict=True):
        assert_close(a, b.double(), 2e-6, name)
