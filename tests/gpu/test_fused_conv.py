# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/fused_conv.h and fused_depthwise.h: float64's answers, rounded once, for all of yolov12n and s. Needs one NVIDIA GPU from sm_80 on.

python -m pytest tests/gpu/test_fused_conv.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.gpu.compiled import skip_without_code
from yolov12.model.fused import one_kernel, two_kernels

GPU = torch.device("cuda", 0)
TILES = 7
HALF_A_PLACE = {torch.float16: 2**-11, torch.bfloat16: 2**-8}

NANO = [  # in_channels, out_channels, side, stride, size of the map, of pictures of 640 px
    *[(16, 32, 3, 2, 320), (32, 32, 1, 1, 160), (16, 8, 3, 1, 160), (8, 16, 3, 1, 160), (48, 64, 1, 1, 160)],
    *[(64, 64, 3, 2, 160), (64, 64, 1, 1, 80), (32, 16, 3, 1, 80), (16, 32, 3, 1, 80), (96, 128, 1, 1, 80)],
    *[(128, 128, 3, 2, 80), (128, 64, 1, 1, 40), (64, 192, 1, 1, 40), (64, 64, 1, 1, 40), (64, 128, 1, 1, 40)],
    *[(192, 128, 1, 1, 40), (128, 256, 3, 2, 40), (256, 128, 1, 1, 20), (128, 384, 1, 1, 20), (128, 128, 1, 1, 20)],
    *[(128, 256, 1, 1, 20), (384, 256, 1, 1, 20), (384, 64, 1, 1, 40), (64, 32, 1, 1, 40), (32, 32, 3, 1, 40)],
    *[(128, 128, 1, 1, 40), (256, 32, 1, 1, 80), (32, 16, 1, 1, 80), (16, 16, 3, 1, 80), (32, 32, 1, 1, 80)],
    *[(64, 64, 3, 2, 80), (192, 64, 1, 1, 40), (128, 128, 3, 2, 40), (128, 64, 1, 1, 20), (64, 64, 3, 1, 20)],
    *[(64, 64, 3, 1, 80), (128, 64, 3, 1, 40), (64, 64, 3, 1, 40), (256, 64, 3, 1, 20), (64, 64, 1, 1, 20)],
    *[(64, 80, 1, 1, 80), (80, 80, 1, 1, 80), (128, 80, 1, 1, 40), (256, 80, 1, 1, 20), (80, 80, 1, 1, 20)],
]
SMALL = [  # those that nano has not
    *[(32, 64, 3, 2, 320), (64, 64, 1, 1, 160), (32, 16, 3, 1, 160), (16, 32, 3, 1, 160), (96, 128, 1, 1, 160)],
    *[(128, 128, 3, 2, 160), (128, 128, 1, 1, 80), (64, 32, 3, 1, 80), (32, 64, 3, 1, 80), (192, 256, 1, 1, 80)],
    *[(256, 256, 3, 2, 80), (256, 128, 1, 1, 40), (128, 384, 1, 1, 40), (128, 256, 1, 1, 40), (384, 256, 1, 1, 40)],
    *[(256, 512, 3, 2, 40), (512, 256, 1, 1, 20), (256, 768, 1, 1, 20), (256, 256, 1, 1, 20), (256, 512, 1, 1, 20)],
    *[(768, 512, 1, 1, 20), (768, 128, 1, 1, 40), (256, 256, 1, 1, 40), (512, 64, 1, 1, 80), (64, 32, 1, 1, 80)],
    *[(32, 32, 3, 1, 80), (384, 128, 1, 1, 40), (256, 256, 3, 2, 40), (128, 128, 3, 1, 20), (128, 64, 3, 1, 80)],
    *[(256, 64, 3, 1, 40), (512, 64, 3, 1, 20), (128, 80, 1, 1, 80), (512, 128, 1, 1, 20), (128, 80, 1, 1, 20)],
]


@pytest.fixture(autouse=True)
def kernels() -> None:
    skip_without_code(least=(8, 0))


def wide(images: int, channels: int, height: int, width: int, dtype: torch.dtype, around: tuple[int, int]) -> Tensor:
    """Some channels of a wider channels_last tensor, with NaN around them."""
    whole = torch.full((images, height, width, sum(around) + channels), torch.nan, dtype=dtype, device=GPU)
    part = whole[..., around[0] : around[0] + channels]
    part.copy_(torch.randn(part.shape, device=GPU))
    return part.permute(0, 3, 1, 2)


def check(
    size: tuple[int, int, int],
    channels: tuple[int, int],
    side: int,
    stride: int,
    *,
    dtype: torch.dtype = torch.float16,
    silu: bool = True,
    with_residual: bool = False,
    around: tuple[int, int] = (0, 0),
    tile: int | None = None,
    early: bool = False,
) -> Tensor:
    torch.manual_seed(0)
    (images, height, width), (in_channels, out_channels) = size, channels
    x = wide(images, in_channels, height, width, dtype, around)
    weight = torch.randn(out_channels, in_channels, side, side, device=GPU) / (in_channels * side * side) ** 0.5
    weight = weight.to(dtype, memory_format=torch.channels_last)
    bias = torch.randn(out_channels, device=GPU).to(dtype)
    exact = F.conv2d(x.double().contiguous(), weight.double().contiguous(), bias.double(), stride, side // 2)
    exact = F.silu(exact) if silu else exact
    residual = wide(*exact.shape, dtype, around[::-1]) if with_residual else None
    exact = exact if residual is None else exact + residual.double()
    whole = torch.full((images, *exact.shape[2:], out_channels + sum(around)), 7.0, dtype=dtype, device=GPU)
    y = whole[..., around[0] : around[0] + out_channels].permute(0, 3, 1, 2)
    ops = torch.ops.yolov12_kernels
    assert ops.is_fused_conv(x, weight, stride)
    for _ in range(2 if early else 1):  # the second begins beside the first
        ops.fused_conv(x, weight, bias, stride, silu, residual, y, tile, early)
    error = (y.double() - exact).abs()
    beyond = error - 1.01 * HALF_A_PLACE[dtype] * exact.abs() - 2e-4
    assert (beyond <= 0).all(), f"{error.max():.2e} from exact"
    assert (whole[..., : around[0]] == 7).all()
    assert (whole[..., around[0] + out_channels :] == 7).all()
    return y


@pytest.mark.parametrize(("in_channels", "out_channels", "side", "stride", "size"), [*NANO, *SMALL])
@pytest.mark.parametrize("images", [1, 3])
def test_every_convolution_of_nano_and_small(images, in_channels, out_channels, side, stride, size):
    check((images, size, size), (in_channels, out_channels), side, stride)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("around", [(0, 0), (8, 16)])
def test_large_and_deep_ones_by_cudnn_and_a_pass(silu, with_residual, around):
    """Two kernels round the convolution, and the activation before the sum."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1).to(GPU, torch.float16, memory_format=torch.channels_last)
    x = torch.randn(32, 64, 40, 40, device=GPU).half().to(memory_format=torch.channels_last)
    residual = wide(32, 64, 40, 40, torch.float16, around[::-1]) if with_residual else None
    out = wide(32, 64, 40, 40, torch.float16, around)
    assert two_kernels.are_faster(x, conv.weight, 1, out)
    with torch.inference_mode():
        made = one_kernel.convolved_by(conv, conv.weight, conv.bias, x, 1, silu, residual, out)
        exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        exact = F.silu(exact) if silu else exact
        largest = exact.abs()
        if residual is not None:
            exact, largest = exact + residual.double(), torch.maximum(largest, (exact + residual.double()).abs())
    assert made.data_ptr() == out.data_ptr()
    assert ((out.double() - exact).abs() <= 4 * HALF_A_PLACE[torch.float16] * largest + 1e-3).all()


@pytest.mark.parametrize("tile", range(TILES))
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_tile_gives_the_same_bits(tile, side, stride, dtype):
    options = {"dtype": dtype, "with_residual": True, "around": (8, 24)}
    shape = (2, 37, 23), (72, 136), side, stride
    assert torch.equal(check(*shape, tile=tile, **options), check(*shape, tile=0, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("around", [(0, 0), (8, 16)])
def test_with_and_without_what_follows(dtype, silu, with_residual, around):
    check((2, 20, 20), (64, 64), 3, 1, dtype=dtype, silu=silu, with_residual=with_residual, around=around)


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 1, 3), (2, 2, 1), (1, 33, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_of_odd_sizes(size, stride):
    check(size, (8, 16), 3, stride)


@pytest.mark.parametrize("tile", [None, *range(TILES)])
def test_a_kernel_that_begins_early_gives_the_same_answer(tile):
    check((1, 20, 20), (128, 256), 3, 1, tile=tile, early=True)


def test_a_chain_that_begins_early_gives_the_bits_of_one_that_does_not():
    """Each reads what the one before it wrote, as a graph runs them."""
    torch.manual_seed(0)
    layout = torch.channels_last
    weights = [torch.randn(64, 64, 3, 3, device=GPU).div_(24).half().to(memory_format=layout) for _ in range(24)]
    bias, x = torch.zeros(64, device=GPU).half(), torch.randn(1, 64, 40, 40, device=GPU).half().to(memory_format=layout)

    def chain(early: bool) -> Tensor:
        maps = [x, *(torch.empty_like(x) for _ in weights)]
        for before, weight, after in zip(maps, weights, maps[1:], strict=False):
            torch.ops.yolov12_kernels.fused_conv(before, weight, bias, 1, True, before, after, None, early)
        return maps[-1]

    expected = chain(False)
    graph = torch.cuda.CUDAGraph()
    chain(True)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        made = chain(True)
    for _ in range(20):
        made.zero_()
        graph.replay()
        assert torch.equal(made, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(("images", "channels", "size"), [(1, 64, 40), (1, 128, 20), (3, 80, 33), (16, 128, 80)])
def test_depthwise(dtype: torch.dtype, side: int, images: int, channels: int, size: int) -> None:
    torch.manual_seed(0)
    x = wide(images, channels, size, size + 1, dtype, (2 * channels, 0))
    weight = (torch.randn(channels, 1, side, side, device=GPU) / side).to(dtype)
    bias, taps = torch.randn(channels, device=GPU).to(dtype), weight[:, 0].permute(1, 2, 0).contiguous()
    exact = F.conv2d(x.double().contiguous(), weight.double(), bias.double(), padding=side // 2, groups=channels)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    torch.ops.yolov12_kernels.fused_depthwise(x, taps, bias, True, None, y)
    expected = F.silu(exact)
    assert ((y.double() - expected).abs() <= 1.01 * HALF_A_PLACE[dtype] * expected.abs() + 2e-4).all()
    y.copy_(torch.randn(y.shape))
    expected = exact + y.double()
    torch.ops.yolov12_kernels.fused_depthwise(x, taps, bias, False, y, y)
    assert ((y.double() - expected).abs() <= 1.01 * HALF_A_PLACE[dtype] * expected.abs() + 2e-4).all()


def test_what_it_does_not_take_is_refused():
    x, weight = torch.randn(1, 16, 8, 8, device=GPU).half(), torch.randn(16, 16, 3, 3, device=GPU).half()
    taken = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    ops = torch.ops.yolov12_kernels
    assert ops.is_fused_conv(*taken, 1)
    for other in [
        (x, taken[1], 1),
        (taken[0], weight, 1),
        (*taken, 3),
        (taken[0].float(), taken[1].float(), 1),
        (taken[0][:, :12], taken[1], 1),
        (taken[0][:, 4:12], taken[1][:, 4:12], 1),
    ]:
        assert not ops.is_fused_conv(*other)
    with pytest.raises(RuntimeError, match="channels_last"):
        ops.fused_conv(x, weight, x[0, 0, 0], 1, True, None, taken[0], None, False)
