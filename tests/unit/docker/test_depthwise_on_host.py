# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/depthwise.cu, compiled for the CPU by g++, against float64. On a GPU: tests/gpu/test_depthwise.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unit.docker.on_host import compiled

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""In the order of the kernels' types; of the largest value: rounding the result once, and a few sums in float32."""
SHAPES = [(2, 12, 9, 13), (1, 144, 5, 4), (3, 8, 1, 1), (1, 68, 2, 3), (2, 8, 20, 20)]
"""(images, channels, height, width): tiles cut off on both sides; more channels than a block has; images smaller than a filter; more tiles than a
thread takes at once."""


@pytest.fixture(scope="module")
def on_host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(repository / "docker/kernels", "depthwise", tmp_path_factory.mktemp("depthwise"), launches=4)


def random(*sizes: int, dtype: torch.dtype, seed: int) -> Tensor:
    made = torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.contiguous(memory_format=torch.channels_last)


def numbers(x: Tensor, side: int) -> tuple[ctypes.Array[ctypes.c_int], int]:
    images, channels, height, width = x.shape
    return (ctypes.c_int * 5)(images, height, width, channels, side), list(TOLERANCE).index(x.dtype)


def pointer(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def assert_close(found: Tensor, expected: Tensor) -> None:
    off = (found.double() - expected).abs().max() / expected.abs().max()
    assert off <= TOLERANCE[found.dtype], f"{off:.2e}"


CASES = pytest.mark.parametrize(
    ("shape", "dtype"), [(shape, dtype) for shape in SHAPES for dtype in TOLERANCE], ids=str
)
SIDES = pytest.mark.parametrize("side", [3, 5, 7])


@SIDES
@CASES
def test_output_and_gradients_are_those_of_float64(on_host, shape, dtype, side):
    wide = random(shape[0], 2 * shape[1], *shape[2:], dtype=dtype, seed=0)
    x, stride = wide[:, shape[1] :], 2 * shape[1]  # some channels of a wider tensor
    grad = random(*shape, dtype=dtype, seed=1)
    weight = random(shape[1], 1, side, side, dtype=dtype, seed=2).contiguous()
    y, grad_x, grad_weight = torch.empty_like(grad), torch.empty_like(grad), torch.empty_like(weight)
    of = numbers(x, side)
    on_host.depthwise_rows(*of, pointer(x), stride, pointer(weight), False, pointer(y))
    on_host.depthwise_rows(*of, pointer(grad), shape[1], pointer(weight), True, pointer(grad_x))
    on_host.depthwise_weight_gradient(*of, pointer(x), stride, pointer(grad), pointer(grad_weight))

    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    y64 = nn.functional.conv2d(x64, weight64, None, 1, side // 2, 1, shape[1])
    y64.backward(grad.double())
    for found, expected in ((y, y64.detach()), (grad_x, x64.grad), (grad_weight, weight64.grad)):
        assert_close(found, expected)


@SIDES
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_planes_are_those_of_float64(on_host, with_bias, side):
    x = random(2, 3, 18, 35, dtype=torch.bfloat16, seed=0).contiguous()
    weight = random(3, 1, side, side, dtype=torch.bfloat16, seed=1).contiguous()
    bias = torch.tensor([1.0, -2.0, 0.5], dtype=torch.bfloat16) if with_bias else None
    y = torch.empty_like(x)
    on_host.depthwise_nchw(*numbers(x, side), pointer(x), pointer(weight), pointer(bias), pointer(y))
    bias64 = None if bias is None else bias.double()
    assert_close(y, nn.functional.conv2d(x.double(), weight.double(), bias64, 1, side // 2, 1, 3))


def test_again_gives_the_same_bits(on_host):
    x, grad = (random(3, 8, 20, 20, dtype=torch.float32, seed=seed) for seed in (0, 1))
    first, second = torch.empty(8, 1, 7, 7), torch.empty(8, 1, 7, 7)
    for made in (first, second):
        on_host.depthwise_weight_gradient(*numbers(x, 7), pointer(x), 8, pointer(grad), pointer(made))
    assert torch.equal(first, second)
