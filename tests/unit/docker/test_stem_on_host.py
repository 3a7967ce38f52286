# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/stem.cu, compiled for the CPU by g++: what it computes is torch's, in float64. On a GPU: tests/gpu/test_stem.py."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.unit.docker.on_host import compiled

TYPES = [torch.float32, torch.float16, torch.bfloat16]
"""In the order of the enum Type (docker/kernels/batch_norm_act.h)."""
ROUNDED = {torch.float32: 2e-6, torch.float16: 1.01 * 2**-11, torch.bfloat16: 1.01 * 2**-8}
"""Half of the last place of the largest value, and a little for sums in float32."""
LAYOUTS = {"planes": torch.contiguous_format, "pixels": torch.channels_last}


class OnHost:
    """The compiled code, called as its ops are."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def stem(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.full(output_shape(x, weight), torch.nan, dtype=x.dtype).to(memory_format=torch.channels_last)
        common = (dimensions(x, weight), TYPES.index(x.dtype), *place(x), *place(weight))
        self.library.stem_forward(*common, place(bias)[0] if bias is not None else None, place(y)[0])
        return y

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`grad` is channels_last, or some channels of such a tensor."""
        made = torch.full_like(weight, torch.nan)
        common = (dimensions(x, weight), TYPES.index(x.dtype), *place(x))
        self.library.stem_gradient(*common, place(grad)[0], ctypes.c_int64(grad.stride(3)), *place(made))
        return made


def dimensions(x: Tensor, weight: Tensor) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * 4)(x.shape[0], *x.shape[2:], weight.shape[0])


def place(tensor: Tensor) -> tuple[ctypes.c_void_p, ctypes.Array[ctypes.c_int64]]:
    return ctypes.c_void_p(tensor.data_ptr()), (ctypes.c_int64 * tensor.dim())(*tensor.stride())


def output_shape(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    return (x.shape[0], weight.shape[0], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)


@pytest.fixture(scope="module")
def on_host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> OnHost:
    return OnHost(compiled(repository / "docker/kernels", "stem", tmp_path_factory.mktemp("stem"), launches=5))


def problem(
    size: tuple[int, int, int], channels: int, dtype: torch.dtype, layout: str = "planes"
) -> tuple[Tensor, Tensor, Tensor]:
    """x of (images, 3, height, width), the weight and the gradient of y."""
    torch.manual_seed(0)
    images, height, width = size
    x = torch.randn(images, 3, height, width).to(dtype, memory_format=LAYOUTS[layout])
    weight = torch.randn(channels, 3, 3, 3).to(dtype, memory_format=torch.channels_last)
    grad = torch.randn(output_shape(x, weight)).to(dtype, memory_format=torch.channels_last)
    return x, weight, grad


def check(on_host: OnHost, x: Tensor, weight: Tensor, grad: Tensor) -> None:
    double = weight.double().requires_grad_()
    expected = F.conv2d(x.double(), double, stride=2, padding=1)
    expected.backward(grad.double())
    found = on_host.stem(x, weight), on_host.weight_gradient(grad, x, weight)
    for ours, theirs in zip(found, (expected.detach(), double.grad), strict=True):
        assert (ours.double() - theirs).abs().max() <= ROUNDED[x.dtype] * theirs.abs().max()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 16, 32), (4, 18, 136), (2, 18, 200)], ids=str)
def test_output_and_gradient_are_torchs(on_host, size, dtype):
    """Less than a tile; so many rows that each warp walks along several; rows that are divided into stretches of several tiles."""
    check(on_host, *problem(size, 16, dtype))


@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 140)),
    channels=st.sampled_from([16, 32]),
    dtype=st.sampled_from(TYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
@example(size=(1, 1, 1), channels=16, dtype=torch.float16, layout="planes")
@example(size=(2, 5, 71), channels=16, dtype=torch.bfloat16, layout="planes")
@example(size=(2, 10, 80), channels=32, dtype=torch.float16, layout="pixels")
@settings(max_examples=20, deadline=None)
def test_pictures_of_any_size_may_lie_in_planes_or_by_pixel(on_host, size, channels, dtype, layout):
    check(on_host, *problem(size, channels, dtype, layout))


@pytest.mark.parametrize("channels", range(32, 97, 16))
def test_all_channels_that_a_network_begins_with_are_torchs(on_host, channels):
    check(on_host, *problem((1, 5, 40), channels, torch.float16))


def test_float32_has_groups_of_channels_in_blocks_of_their_own(on_host):
    check(on_host, *problem((1, 5, 40), 96, torch.float32))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_bias_is_added_before_the_sum_is_rounded(on_host, dtype):
    x, weight, _ = problem((1, 6, 24), 32, dtype)
    bias = torch.randn(32).to(dtype)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=2, padding=1)
    found = on_host.stem(x, weight, bias).double()
    assert (found - expected).abs().max() <= ROUNDED[dtype] * expected.abs().max()


@pytest.mark.parametrize("begin", [0, 8, 4])  # 4 numbers are 8 bytes: no vectors
def test_pictures_and_gradients_may_be_parts_of_wider_tensors(on_host, begin):
    x, weight, grad = problem((2, 6, 48), 32, torch.bfloat16)
    wide = torch.randn(2, 4, 8, 72).bfloat16()
    part = wide[:, 1:, 1:7, begin : begin + 48].copy_(x)
    wide_grad = torch.randn(2, 64, 3, 24).bfloat16().to(memory_format=torch.channels_last)
    part_grad = wide_grad[:, 32:].copy_(grad)
    assert torch.equal(on_host.stem(part, weight), on_host.stem(x, weight))
    assert torch.equal(on_host.weight_gradient(part_grad, part, weight), on_host.weight_gradient(grad, x, weight))


def test_weights_may_lie_in_any_order(on_host):
    x, weight, grad = problem((1, 6, 40), 16, torch.float16)
    other = weight.contiguous()
    assert other.stride() != weight.stride()
    assert torch.equal(on_host.stem(x, other), on_host.stem(x, weight))
    assert torch.equal(on_host.weight_gradient(grad, x, other), on_host.weight_gradient(grad, x, weight))


def test_what_is_no_number_reaches_only_the_pixels_that_see_it(on_host):
    places = list(itertools.product(range(3), (2, 3), (12, 13, 62, 63)))
    x, weight, _ = problem((len(places), 6, 80), 16, torch.bfloat16)
    for image, place in zip(x, places, strict=True):
        image[place] = torch.nan
    expected = F.conv2d(x.float(), weight.float(), stride=2, padding=1).isnan()
    assert expected.any()
    assert torch.equal(on_host.stem(x, weight).isnan(), expected)
