# SPDX-License-Identifier: AGPL-3.0-or-later
"""Depthwise convolution by our kernels (docker/kernels) on a GPU: against float64, bits that repeat, in a model, what is refused.

python -m pytest tests/gpu/test_depthwise.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from tests.gpu.compiled import DTYPES, OPS, TOLERANCE, nhwc, skip_without_code
from yolov12.model import fused
from yolov12.model.fused.convolution import Geometry, convolve, gradients

SHAPES = [
    (2, 16, 20, 20),
    (3, 80, 33, 17),
    (1, 144, 7, 5),
    (2, 384, 13, 26),
    (1, 8, 1, 1),
    (1, 64, 3, 2),
    (2, 4, 9, 9),
    (64, 64, 80, 80),
]
"""(images, channels, height, width). 4 channels are 16 bytes in float32 alone; 144 are 72 threads, more than a block has side by side; 80 are no
power of two; images smaller than the filter, and ones that tiles do not fit; the last one has many tiles for each thread."""


@pytest.fixture(autouse=True)
def on_a_gpu_with_code() -> Iterator[None]:
    skip_without_code()
    yield
    torch.cuda.empty_cache()


def problem(shape: tuple[int, int, int, int], side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Geometry]:
    """x, gradient of y, weight, geometry."""
    channels, margin = shape[1], side // 2
    weight = nhwc(channels, 1, side, side, dtype=dtype, seed=2)
    return (
        nhwc(*shape, dtype=dtype),
        nhwc(*shape, dtype=dtype, seed=1),
        weight,
        Geometry((1, 1), (margin, margin), (1, 1), channels),
    )


def in_float64(x: Tensor, grad: Tensor, weight: Tensor, geometry: Geometry) -> list[Tensor]:
    """y, and the gradients of x and weight, by torch's own kernels, an image at a time: those are slow, and need memory."""
    x, grad, weight = (t.double().contiguous() for t in (x, grad, weight))
    stride, padding, dilation, groups = geometry
    found = []
    with torch.backends.cudnn.flags(enabled=False):
        for image, grad_image in zip(x.split(1), grad.split(1), strict=True):
            y = nn.functional.conv2d(image, weight, None, stride, padding, dilation, groups)
            grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad_image, image, weight, None, stride, padding, dilation, False, (0, 0), groups, (True, True, False)
            )
            found.append((y, grad_x, grad_weight))
    ys, grads_x, grads_weight = zip(*found, strict=True)
    return [torch.cat(ys), torch.cat(grads_x), torch.stack(grads_weight).sum(0)]


def by_whoever(x: Tensor, grad: Tensor, weight: Tensor, geometry: Geometry) -> list[Tensor]:
    return [convolve(x, weight, geometry), *gradients(grad, x, weight, geometry, True, True)]


def by_us(x: Tensor, grad: Tensor, weight: Tensor, geometry: Geometry) -> list[Tensor]:
    assert OPS.is_depthwise(x, weight)
    return by_whoever(x, grad, weight, geometry)


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, dtype) for shape in SHAPES for dtype in DTYPES.values() if shape[1] * dtype.itemsize % 16 == 0],
    ids=str,
)
def test_output_and_gradients_are_those_of_float64(
    shape: tuple[int, int, int, int], side: int, dtype: torch.dtype
) -> None:
    of = problem(shape, side, dtype)
    for found, expected in zip(by_us(*of), in_float64(*of), strict=True):
        assert found.dtype is dtype
        off = (found.double() - expected).abs().max() / expected.abs().max()
        assert off <= TOLERANCE[dtype], f"{off:.2e}"


PLANES = [
    (2, 16, 20, 20),
    (3, 6, 33, 17),
    (1, 144, 7, 5),
    (1, 8, 1, 1),
    (1, 64, 3, 2),
    (2, 80, 40, 67),
    (32, 64, 80, 80),
]
"""(images, channels, height, width): narrower and wider than a block, of which 33 x 67 pixels take several."""


@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("shape", PLANES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_planes_are_those_of_float64(
    dtype: torch.dtype, shape: tuple[int, int, int, int], side: int, with_bias: bool
) -> None:
    x, _, weight, geometry = problem(shape, side, dtype)
    # Some channels of larger images, as a split network has them.
    wide = torch.randn(shape[0], 2 * shape[1], *shape[2:], device="cuda", dtype=dtype)
    for images in (x.contiguous(), wide[:, shape[1] :]):
        bias = torch.randn(shape[1], device="cuda", dtype=dtype) if with_bias else None
        found = OPS.depthwise_planes(images, weight, bias)
        expected = in_float64(images, images, weight, geometry)[0]
        expected += 0 if bias is None else bias.double()[:, None, None]
        assert found.is_contiguous()
        assert (found.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def test_planes_that_do_not_fit_are_refused() -> None:
    x, _, weight, _ = problem((1, 16, 8, 6), 3, torch.float32)
    with pytest.raises(RuntimeError, match="must be contiguous"):
        OPS.depthwise_planes(x, weight, None)
    with pytest.raises(RuntimeError, match="bias must be"):
        OPS.depthwise_planes(x.contiguous(), weight, weight.new_zeros(15))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_again_gives_the_same_bits(dtype: torch.dtype) -> None:
    of = problem((32, 64, 40, 40), 7, dtype)
    first = by_us(*of)
    for _ in range(3):
        assert all(map(torch.equal, by_us(*of), first))


def test_channels_of_a_wider_tensor_are_taken_as_they_lie() -> None:
    x, grad, weight, geometry = problem((2, 32, 20, 20), 3, torch.bfloat16)
    wide = nhwc(2, 96, 20, 20, dtype=torch.bfloat16, seed=3)
    wide[:, 32:64] = x
    part = wide[:, 32:64]
    assert all(map(torch.equal, by_us(part, grad, weight, geometry), by_us(x, grad, weight, geometry)))


@pytest.mark.parametrize(
    ("shape", "side", "weights_dtype", "layout"),
    [
        ((1, 12, 8, 8), 3, torch.bfloat16, torch.channels_last),  # 24 bytes
        ((1, 16, 8, 8), 9, torch.bfloat16, torch.channels_last),
        ((1, 16, 8, 8), 3, torch.float32, torch.channels_last),
        ((1, 16, 8, 8), 3, torch.bfloat16, torch.contiguous_format),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, int, int, int], side: int, weights_dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x, grad, weight, _ = problem(shape, side, torch.bfloat16)
    x, weight = x.contiguous(memory_format=layout), weight.to(weights_dtype)
    assert not OPS.is_depthwise(x, weight)
    with pytest.raises(RuntimeError, match="must be channels_last"):
        OPS.depthwise(x, weight, False)
    with pytest.raises(RuntimeError, match="must be channels_last"):
        OPS.depthwise_weight_gradient(grad, x, weight)


@pytest.mark.parametrize(("channels", "side"), [(12, 3), (16, 9)])
def test_what_does_not_fit_is_torchs(channels: int, side: int) -> None:
    of = problem((2, channels, 12, 10), side, torch.bfloat16)
    assert not OPS.is_depthwise(of[0], of[2])
    for one, expected in zip(by_whoever(*of), in_float64(*of), strict=True):
        assert (one.double() - expected).abs().max() <= 2 * TOLERANCE[torch.bfloat16] * expected.abs().max()


def names_of_kernels(run: Callable[[], object]) -> set[str]:
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return {event.key for event in profiler.key_averages()}


def test_a_conv_in_training_and_in_validation_runs_them() -> None:
    module = Conv(32, 32, 7, g=32).cuda().to(memory_format=torch.channels_last)
    x = nhwc(4, 32, 20, 20, dtype=torch.float32, seed=0).requires_grad_()
    fused.install()
    fused.choose({module: fused.Keep.BOTH})
    try:

        def train() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                module(x).float().sum().backward()

        names = names_of_kernels(train)
        assert any("depthwise_kernel" in name for name in names)
        assert any("sum_taps" in name for name in names)
        module.eval()

        @torch.inference_mode()
        def validate() -> Tensor:
            with torch.autocast("cuda", torch.float16):
                return module(x)

        @torch.inference_mode()
        def by_torch() -> Tensor:
            with torch.autocast("cuda", torch.float16):
                return module.act(module.bn(nn.functional.conv2d(x, module.conv.weight, None, 1, 3, 1, 32)))

        assert any("depthwise_kernel" in name for name in names_of_kernels(validate))
        torch.testing.assert_close(validate(), by_torch(), rtol=2e-3, atol=2e-3)
    finally:
        fused.choose({})
        fused.uninstall()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "rows"])
def test_a_fused_conv_runs_them_in_any_layout(layout: torch.memory_format) -> None:
    module = fuse_conv_and_bn_of(Conv(32, 32, 5, g=32).cuda().eval()).to(memory_format=layout)
    x = nhwc(2, 32, 20, 20, dtype=torch.float32, seed=0).contiguous(memory_format=layout)
    fused.install()
    try:

        @torch.inference_mode()
        def predict() -> Tensor:
            return module.forward_fuse(x)

        assert any(name in of for name in ("depthwise_kernel", "planes_kernel") for of in names_of_kernels(predict))
        expected = in_float64(x, x, module.conv.weight, Geometry((1, 1), (2, 2), (1, 1), 32))[0]
        expected = nn.functional.silu(expected + module.conv.bias.double()[:, None, None])
        torch.testing.assert_close(predict().double(), expected, rtol=1e-5, atol=1e-5)
    finally:
        fused.uninstall()


def fuse_conv_and_bn_of(module: Conv) -> Conv:
    module.conv = fuse_conv_and_bn(module.conv, module.bn)
    return module
