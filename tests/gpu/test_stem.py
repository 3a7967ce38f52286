# SPDX-License-Identifier: AGPL-3.0-or-later
"""The first convolution by our kernels (docker/kernels) on a GPU: against float64, bits that repeat, in a model, what is refused.

Its arithmetic without a GPU: tests/unit/docker/test_stem_on_host.py.

python -m pytest tests/gpu/test_stem.py
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from tests.gpu.compiled import DTYPES, OPS, TOLERANCE, nhwc, skip_without_code
from yolov12.model import fused
from yolov12.model.fused.convolution import STEM_CHANNELS, Geometry, convolve, gradients

GEOMETRY = Geometry((2, 2), (1, 1), (1, 1), 1)
CHANNELS = range(16, STEM_CHANNELS + 1, 16)
SIZES = [(2, 64, 64), (3, 33, 72), (1, 160, 320), (1, 7, 5), (2, 21, 131), (1, 1, 1), (1, 2, 3), (32, 320, 320)]
"""(images, height, width): whole tiles, a part of one, rows that begin at any byte, images smaller than the filter, and many rows for each warp."""
LAYOUTS = {"planes": torch.contiguous_format, "pixels": torch.channels_last}


@pytest.fixture(autouse=True)
def on_a_gpu_with_code() -> Iterator[None]:
    skip_without_code()
    yield
    torch.cuda.empty_cache()


def serves(dtype: torch.dtype) -> bool:
    return dtype is not torch.bfloat16 or torch.cuda.get_device_capability() >= (8, 0)


def problem(
    size: tuple[int, int, int], channels: int, dtype: torch.dtype, layout: str = "planes"
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, the gradient of y, the weight."""
    if not serves(dtype):
        pytest.skip("Turing's tensor cores do not know bfloat16")
    images, height, width = size
    return (
        nhwc(images, 3, height, width, dtype=dtype).contiguous(memory_format=LAYOUTS[layout]),
        nhwc(images, channels, (height + 1) // 2, (width + 1) // 2, dtype=dtype, seed=1),
        nhwc(channels, 3, 3, 3, dtype=dtype, seed=2),
    )


def in_float64(x: Tensor, grad: Tensor, weight: Tensor) -> list[Tensor]:
    """y and the gradient of the weight, by torch's own kernels, an image at a time: those need memory."""
    x, grad, weight = (t.double().contiguous() for t in (x, grad, weight))
    ys, grads = [], torch.zeros_like(weight)
    with torch.backends.cudnn.flags(enabled=False):
        for image, grad_image in zip(x.split(1), grad.split(1), strict=True):
            ys.append(nn.functional.conv2d(image, weight, None, 2, 1))
            grads += torch.ops.aten.convolution_backward(
                grad_image, image, weight, None, (2, 2), (1, 1), (1, 1), False, (0, 0), 1, (False, True, False)
            )[1]
    return [torch.cat(ys), grads]


def by_us(x: Tensor, grad: Tensor, weight: Tensor) -> list[Tensor]:
    assert OPS.is_stem(x, weight)
    return [OPS.stem(x, weight, None), OPS.stem_weight_gradient(grad, x, weight)]


def check(x: Tensor, grad: Tensor, weight: Tensor) -> None:
    for found, expected in zip(by_us(x, grad, weight), in_float64(x, grad, weight), strict=True):
        assert found.dtype is x.dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        off = (found.double() - expected).abs().max() / expected.abs().max()
        assert off <= TOLERANCE[x.dtype], f"{off:.2e}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_output_and_gradient_are_those_of_float64(dtype: torch.dtype, size: tuple[int, int, int], layout: str) -> None:
    check(*problem(size, 16, dtype, layout))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_all_channels_are_those_of_float64(dtype: torch.dtype, channels: int) -> None:
    for size in [(4, 64, 96), (2, 31, 77)]:
        check(*problem(size, channels, dtype))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_again_gives_the_same_bits(dtype: torch.dtype) -> None:
    of = problem((16, 160, 160), 32, dtype)
    first = by_us(*of)
    for _ in range(3):
        assert all(map(torch.equal, by_us(*of), first))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_parts_of_wider_tensors_are_taken_as_they_lie(dtype: torch.dtype) -> None:
    x, grad, weight = problem((2, 32, 64), 32, dtype)
    wide = torch.randn(2, 4, 40, 99, device="cuda").to(dtype)
    part = wide[:, 1:, 3:35, 5:69].copy_(x)
    wide_grad = nhwc(2, 96, 16, 32, dtype=dtype, seed=3)
    part_grad = wide_grad[:, 32:64].copy_(grad)
    assert all(map(torch.equal, by_us(part, part_grad, weight), by_us(x, grad, weight)))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_bias_is_added_before_the_sum_is_rounded(dtype: torch.dtype) -> None:
    x, grad, weight = problem((2, 48, 80), 48, dtype)
    bias = torch.randn(48, device="cuda").to(dtype)
    expected = in_float64(x, grad, weight)[0] + bias.double()[:, None, None]
    found = OPS.stem(x, weight, bias).double()
    assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def test_what_is_no_number_reaches_only_the_pixels_that_see_it() -> None:
    places = list(itertools.product(range(3), (2, 3), (12, 13, 62, 63)))
    x, _, weight = problem((len(places), 16, 128), 16, torch.float16)
    for image, place in zip(x, places, strict=True):
        image[place] = torch.nan
    expected = nn.functional.conv2d(x.double(), weight.double(), None, 2, 1).isnan()
    assert expected.any()
    assert torch.equal(OPS.stem(x, weight, None).isnan(), expected)


@pytest.mark.parametrize(
    ("inputs", "channels", "side", "weights_dtype"),
    [
        (3, 24, 3, torch.float16),
        (3, 112, 3, torch.float16),
        (3, 16, 5, torch.float16),
        (4, 16, 3, torch.float16),
        (3, 16, 3, torch.float32),
    ],
)
def test_what_does_not_fit_is_refused(inputs: int, channels: int, side: int, weights_dtype: torch.dtype) -> None:
    x = torch.randn(1, inputs, 16, 16, device="cuda").half()
    weight = torch.randn(channels, inputs, side, side, device="cuda").to(weights_dtype)
    assert not OPS.is_stem(x, weight)
    with pytest.raises(RuntimeError, match="x must have 3 channels"):
        OPS.stem(x, weight, None)
    with pytest.raises(RuntimeError, match="x must have 3 channels"):
        OPS.stem_weight_gradient(x, x, weight)


def test_a_gradient_or_a_bias_that_does_not_fit_is_refused() -> None:
    x, grad, weight = problem((1, 16, 16), 16, torch.float16)
    with pytest.raises(RuntimeError, match="grad_y must be"):
        OPS.stem_weight_gradient(grad[:, :, :4], x, weight)
    with pytest.raises(RuntimeError, match="is not channels_last"):
        OPS.stem_weight_gradient(grad.contiguous(), x, weight)
    with pytest.raises(RuntimeError, match="bias must be"):
        OPS.stem(x, weight, weight.new_zeros(15))


def test_the_gradient_of_pictures_is_torchs() -> None:
    x, grad, weight = problem((2, 32, 32), 16, torch.float32)
    grad_x, grad_weight = gradients(grad, x, weight, GEOMETRY, True, True)
    double = x.double().requires_grad_()
    nn.functional.conv2d(double, weight.double(), None, 2, 1).backward(grad.double())
    assert grad_x is not None
    torch.testing.assert_close(grad_x.double(), double.grad, rtol=1e-2, atol=1e-2)  # cuDNN's may be TF32
    assert torch.equal(grad_weight, OPS.stem_weight_gradient(grad, x, weight))


def test_a_network_with_channels_first_stays_so() -> None:
    x, _, weight = problem((2, 32, 32), 16, torch.float32)
    assert convolve(x, weight.contiguous(), GEOMETRY).is_contiguous()


def names_of_kernels(run: Callable[[], object]) -> set[str]:
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return {event.key for event in profiler.key_averages()}


def step(module: Conv, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of all weights."""
    module.zero_grad()
    with torch.autocast("cuda", torch.float16):
        y = module(x)
    (y.float() * nhwc(*y.shape, dtype=torch.float32, seed=5)).sum().backward()
    return [y.detach(), *(parameter.grad.clone() for parameter in module.parameters())]


@pytest.mark.parametrize("size", [(4, 64, 96), (2, 33, 47)], ids=str)
def test_a_conv_in_training_runs_them_and_learns_what_upstreams_does(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    module = Conv(3, 16, 3, 2).cuda().to(memory_format=torch.channels_last)
    x = torch.rand(size[0], 3, *size[1:], device="cuda")
    expected = step(module, x)
    fused.install()
    fused.choose({module: fused.Keep.BOTH})
    try:
        names = names_of_kernels(lambda: step(module, x))
        assert any("stem_kernel" in name for name in names)
        assert any("sum_stem" in name for name in names)
        assert not any("nhwcAddPadding" in name or "convolve_common_engine" in name for name in names)
        for found, theirs in zip(step(module, x), expected, strict=True):
            torch.testing.assert_close(found, theirs, rtol=2e-2, atol=1e-2 * theirs.abs().max().item())
    finally:
        fused.choose({})
        fused.uninstall()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_validation_and_a_folded_conv_run_them(dtype: torch.dtype) -> None:
    module = Conv(3, 16, 3, 2).cuda().to(memory_format=torch.channels_last).eval()
    x = torch.rand(2, 3, 64, 96, device="cuda")
    fused.install()
    try:

        @torch.inference_mode()
        def run(forward: Callable[[Tensor], Tensor]) -> Tensor:
            with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
                return forward(x)

        expected = in_float64(x, x.new_zeros(2, 16, 32, 48), module.conv.weight)[0]
        expected = nn.functional.silu(module.double().bn(expected))
        module.float()
        assert any("stem" in name for name in names_of_kernels(lambda: run(module)))
        torch.testing.assert_close(run(module).double(), expected, rtol=4e-3, atol=4e-3)
        module.conv = fuse_conv_and_bn(module.conv, module.bn).to(memory_format=torch.channels_last)
        assert any("stem" in name for name in names_of_kernels(lambda: run(module.forward_fuse)))
        torch.testing.assert_close(run(module.forward_fuse).double(), expected, rtol=4e-3, atol=4e-3)
    finally:
        fused.uninstall()
