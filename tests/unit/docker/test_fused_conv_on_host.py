# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/fused_conv.cu and fused_depthwise.cu, compiled by g++: they compute torch's, in float64. On a GPU: tests/gpu/test_fused_conv.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.docker.on_host import compiled

TYPES = [torch.float32, torch.float16, torch.bfloat16]
"""In the order of the enum Type (docker/kernels/batch_norm_act.h)."""
HALF_A_PLACE = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
MULTIPROCESSORS = 132
"""Of an H100 or H200."""


class OnHost:
    """The compiled code, called as its ops are."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        y: Tensor,
        *,
        tile: int,
        stride: int,
        silu: bool,
        residual: Tensor | None,
    ) -> None:
        numbers = numbers_of(x.shape, weight.shape[0], weight.shape[2], stride, x.dtype, silu)
        places = (
            *place(x),
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_void_p(bias.data_ptr()),
            *place(residual),
            *place(y),
        )
        self.library.fused_conv_forward(numbers, tile, *places)

    def depthwise(
        self, x: Tensor, taps: Tensor, bias: Tensor, y: Tensor, *, silu: bool, residual: Tensor | None, many: bool
    ) -> None:
        """`many`: several pixels for each thread."""
        images, channels, height, width = x.shape
        numbers = (ctypes.c_int * 7)(images, height, width, channels, len(taps), TYPES.index(x.dtype), silu)
        places = (
            *place(x),
            ctypes.c_void_p(taps.data_ptr()),
            ctypes.c_void_p(bias.data_ptr()),
            *place(residual),
            *place(y),
        )
        self.library.fused_depthwise_forward(numbers, 0 if many else MULTIPROCESSORS, *places)

    def tile(self, shape: tuple[int, int, int, int], out_channels: int, side: int, stride: int) -> tuple[int, int]:
        """(pixels, channels) of the chosen tile for an x of (images, channels, height, width)."""
        size = (ctypes.c_int * 2)()
        numbers = numbers_of(shape, out_channels, side, stride, torch.float16, True)
        self.library.tile_size(self.library.chosen_tile(numbers, MULTIPROCESSORS), size)
        return size[0], size[1]


def numbers_of(
    shape: tuple[int, ...], out_channels: int, side: int, stride: int, dtype: torch.dtype, silu: bool
) -> ctypes.Array[ctypes.c_int]:
    images, channels, height, width = shape
    return (ctypes.c_int * 9)(images, height, width, channels, out_channels, side, stride, TYPES.index(dtype), silu)


def place(tensor: Tensor | None) -> tuple[ctypes.c_void_p, ctypes.Array[ctypes.c_int64]]:
    if tensor is None:
        return ctypes.c_void_p(None), (ctypes.c_int64 * 2)()
    return ctypes.c_void_p(tensor.data_ptr()), (ctypes.c_int64 * 2)(tensor.stride(0), tensor.stride(3))


@pytest.fixture(scope="module")
def on_host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> OnHost:
    kernels, made = repository / "docker/kernels", tmp_path_factory.mktemp("fused_conv")
    return OnHost(compiled(kernels, "fused_conv", made, beside=["fused_depthwise"]))


def wide(
    images: int, channels: int, height: int, width: int, dtype: torch.dtype, before: int, after: int, below: int = 0
) -> Tensor:
    """Some channels of a wider channels_last tensor, with NaN around them, and so many rows of NaN below each image."""
    whole = torch.full((images, height + below, width, before + channels + after), torch.nan, dtype=dtype)
    part = whole[:, :height, :, before : before + channels]
    part.copy_(torch.randn(part.shape))
    return part.permute(0, 3, 1, 2)


def check(
    on_host: OnHost,
    size: tuple[int, int, int],
    channels: tuple[int, int],
    side: int,
    stride: int,
    *,
    tile: int,
    dtype: torch.dtype = torch.float16,
    silu: bool = True,
    with_residual: bool = False,
    around: tuple[int, int] = (0, 0),
    below: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """The kernel's y, some channels of a wider tensor, against float64. `below`: rows between the images of x, of the residual and of y."""
    torch.manual_seed(0)
    (images, height, width), (in_channels, out_channels) = size, channels
    x = wide(images, in_channels, height, width, dtype, *around, below=below[0])
    weight = torch.randn(out_channels, in_channels, side, side) / (in_channels * side * side) ** 0.5
    weight = weight.to(dtype, memory_format=torch.channels_last)
    bias = torch.randn(out_channels).to(dtype)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, side // 2)
    exact = F.silu(exact) if silu else exact
    residual = wide(*exact.shape, dtype, *around[::-1], below=below[1]) if with_residual else None
    exact = exact if residual is None else exact + residual.double()
    rows, columns = exact.shape[2:]
    whole = torch.full((images, rows + below[2], columns, out_channels + sum(around)), 7.0, dtype=dtype)
    y = whole[:, :rows, :, around[0] : around[0] + out_channels].permute(0, 3, 1, 2)
    on_host.run(x, weight, bias, y, tile=tile, stride=stride, silu=silu, residual=residual)
    error = (y.double() - exact).abs()
    assert (error <= 1.01 * HALF_A_PLACE[dtype] * exact.abs() + 1e-4).all(), f"{error.max():.2e}"
    assert (whole[..., : around[0]] == 7).all()
    assert (whole[..., around[0] + out_channels :] == 7).all()
    assert (whole[:, rows:] == 7).all()


@pytest.mark.parametrize("tile", range(7))
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2), (1, 2)])
def test_it_is_torchs_convolution_with_every_tile(on_host, tile, side, stride):
    assert on_host.library.tiles() == 7
    check(on_host, (1, 7, 9), (24, 40), side, stride, tile=tile)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_with_and_without_what_follows(on_host, dtype, silu, with_residual):
    check(on_host, (2, 5, 6), (16, 24), 3, 1, tile=1, dtype=dtype, silu=silu, with_residual=with_residual)


@pytest.mark.parametrize("around", [(8, 0), (0, 16), (24, 8)])
def test_some_channels_of_wider_tensors(on_host, around):
    check(on_host, (3, 4, 5), (16, 24), 3, 1, tile=0, with_residual=True, around=around)


@pytest.mark.parametrize("below", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 1), (2, 1, 3)])
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (1, 2), (3, 1)])
def test_images_with_and_without_rows_between_them(on_host, side, stride, below):
    """Where there are none, and the filter has one pixel, all are one row of pixels to it."""
    check(on_host, (3, 4, 5), (16, 24), side, stride, tile=1, with_residual=True, around=(8, 0), below=below)


@pytest.mark.parametrize("in_channels", [8, 32, 64, 72, 136])
@pytest.mark.parametrize("side", [1, 3])
def test_sums_of_any_depth(on_host, in_channels, side):
    """Of a part of a stage, of as many stages as are on their way at once, and of more."""
    check(on_host, (1, 3, 4), (in_channels, 8), side, 1, tile=0)


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 1, 3), (2, 2, 1), (1, 33, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_of_odd_sizes(on_host, size, stride):
    check(on_host, size, (8, 16), 3, stride, tile=0)


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 2), (2, 9, 11), (1, 4, 8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_depthwise(on_host, side, many, size, dtype):
    torch.manual_seed(0)
    images, height, width = size
    x = wide(images, 24, height, width, dtype, 48, 0)
    weight = (torch.randn(24, 1, side, side) / side).to(dtype)
    bias = torch.randn(24).to(dtype)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=side // 2, groups=24)
    taps = weight[:, 0].permute(1, 2, 0).contiguous()
    for silu, residual in ((True, None), (False, wide(images, 24, height, width, dtype, 0, 8))):
        y = wide(images, 24, height, width, dtype, 8, 0)
        on_host.depthwise(x, taps, bias, y, silu=silu, residual=residual, many=many)
        expected = F.silu(exact) if silu else exact + residual.double()
        assert ((y.double() - expected).abs() <= 1.01 * HALF_A_PLACE[dtype] * expected.abs() + 1e-4).all()


@pytest.mark.parametrize("images", [1, 4, 32])
@pytest.mark.parametrize(
    ("channels", "out_channels", "side", "stride", "size"),
    [(256, 64, 3, 1, 20), (128, 256, 3, 2, 40), (64, 64, 1, 1, 40), (48, 64, 1, 1, 160), (8, 16, 3, 1, 160)],
)
def test_small_maps_are_cut_into_enough_blocks_and_large_ones_into_large_tiles(
    on_host, images, channels, out_channels, side, stride, size
):
    pixels, of_channels = on_host.tile((images, channels, size, size), out_channels, side, stride)
    out_pixels = images * (size // stride) ** 2
    blocks = -(-out_pixels // pixels) * -(-out_channels // of_channels)
    smallest = -(-out_pixels // 32) * -(-out_channels // 32)
    assert blocks >= min(smallest, MULTIPROCESSORS // 2), "multiprocessors have nothing to do"
    if out_pixels * out_channels >= 2**24:
        assert pixels * of_channels >= 64 * 64, "each block reads what many others read too"
