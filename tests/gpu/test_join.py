# SPDX-License-Identifier: AGPL-3.0-or-later
"""Joining in one pass by our kernels (docker/kernels/join.h) on a GPU: against float64, bits that repeat, in whole models, what is refused.

python -m pytest tests/gpu/test_join.py
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from tests.gpu.compiled import DTYPES, OPS, TOLERANCE, nhwc, skip_without_code
from tests.unit.model.our_forwards import fused_installed
from yolov12.model import fused
from yolov12.model.fused import join

SIZES = [(2, 6, 10), (1, 2, 2), (3, 34, 16), (16, 80, 80)]
"""(images, height, width), even, so that each can be doubled from the half."""
CHANNELS = [(8,), (16, 8, 24), (64, 64), (128, 2304), (8,) * 8]
"""Of ranges side by side: one, several of unlike width, two, more than a block has threads for, as many as there can be."""


@pytest.fixture(autouse=True)
def on_a_gpu_with_code() -> Iterator[None]:
    skip_without_code()
    with fused_installed():
        yield
    torch.cuda.empty_cache()


def part(images: int, channels: int, height: int, width: int, dtype: torch.dtype, seed: int, beside: int = 0) -> Tensor:
    """Some channels of a tensor that has `beside` more on each side."""
    return nhwc(images, channels + 2 * beside, height, width, dtype=dtype, seed=seed)[:, beside : beside + channels]


def in_float64(ranges: Sequence[Sequence[Tensor]], doubled: Sequence[bool]) -> Tensor:
    flags = iter(doubled)
    sums = []
    for terms in ranges:
        wide = [term.double() for term in terms]
        sums.append(sum(F.interpolate(term, scale_factor=2.0) if next(flags) else term for term in wide))
    return torch.cat(sums, 1)


def by_us(ranges: Sequence[Sequence[Tensor]], doubled: Sequence[bool]) -> Tensor:
    sources, terms = [term for terms in ranges for term in terms], [len(terms) for terms in ranges]
    assert OPS.is_join(sources, terms, list(doubled))
    return OPS.join(sources, terms, list(doubled))


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_ranges_side_by_side_are_copied_to_the_bit(
    dtype: torch.dtype, size: tuple[int, int, int], channels: tuple[int, ...]
) -> None:
    images, height, width = size
    ranges = [
        [part(images, wide, height, width, dtype, seed, beside=8 * (seed % 2))] for seed, wide in enumerate(channels)
    ]
    made = by_us(ranges, [False] * len(ranges))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made, torch.cat([terms[0] for terms in ranges], 1))


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_doubled_ranges_are_upsampled_to_the_bit(
    dtype: torch.dtype, size: tuple[int, int, int], channels: tuple[int, ...]
) -> None:
    images, height, width = size
    doubled = [seed % 2 == 0 for seed in range(len(channels))]
    ranges = [
        [part(images, wide, height // (1 + twice), width // (1 + twice), dtype, seed, beside=8)]
        for seed, (wide, twice) in enumerate(zip(channels, doubled, strict=True))
    ]
    assert torch.equal(by_us(ranges, doubled).double(), in_float64(ranges, doubled))


@pytest.mark.parametrize("terms", [(2,), (3,), (4, 1), (1, 3), (1, 2, 4, 3)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_sums_are_those_of_float64(dtype: torch.dtype, size: tuple[int, int, int], terms: tuple[int, ...]) -> None:
    images, height, width = size
    ranges = [
        [
            part(images, 16 + 8 * number, height, width, dtype, 10 * number + term, beside=8 * term)
            for term in range(count)
        ]
        for number, count in enumerate(terms)
    ]
    none = [False] * sum(terms)
    made, expected = by_us(ranges, none), in_float64(ranges, none)
    assert (made.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    assert torch.equal(made, by_us(ranges, none))


@pytest.mark.parametrize("channels", [8, 48, 2304])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_halves_are_the_gradient_of_upsampling(dtype: torch.dtype, size: tuple[int, int, int], channels: int) -> None:
    images, height, width = size
    grad = part(images, channels, height, width, dtype, 0, beside=16)
    leaf = torch.zeros(
        images, channels, height // 2, width // 2, device="cuda", dtype=torch.float64, requires_grad=True
    )
    F.interpolate(leaf, scale_factor=2.0).backward(grad.double())
    made = OPS.halve(grad)
    assert leaf.grad is not None
    assert (made.double() - leaf.grad).abs().max() <= TOLERANCE[dtype] * leaf.grad.abs().max()
    assert torch.equal(made, OPS.halve(grad))


def test_what_does_not_fit_is_refused() -> None:
    a, b = nhwc(2, 16, 4, 4, dtype=torch.bfloat16), nhwc(2, 16, 2, 2, dtype=torch.bfloat16)
    assert OPS.is_join([a, b], [1, 1], [False, True])
    refused = [
        ([a, b], [1, 1], [False, False]),  # of two sizes
        ([a, a, b], [2, 1], [False, False, True]),  # a sum beside a doubled one
        ([a, a.float()], [1, 1], [False, False]),
        ([a, a[:, :8]], [2], [False, False]),  # a sum of unlike channels
        ([a[:, :12]], [1], [False]),
        ([a[:, 1:9]], [1], [False]),
        ([a.contiguous()], [1], [False]),
        ([a] * 5, [5], [False] * 5),
        ([a] * 9, [1] * 9, [False] * 9),
        ([a, a], [1], [False, False]),
        ([a], [2], [False]),
        ([a], [1], []),
    ]
    assert not OPS.is_join([], [], [])
    for arguments in refused:
        assert not OPS.is_join(*arguments)
        with pytest.raises(RuntimeError, match="can not be joined"):
            OPS.join(*arguments)
    assert not OPS.is_halvable(nhwc(2, 16, 3, 4, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="even height and width"):
        OPS.halve(nhwc(2, 16, 4, 3, dtype=torch.bfloat16))


def test_the_ops_pass_torchs_own_checks() -> None:
    a, b = nhwc(2, 16, 4, 4, dtype=torch.bfloat16), nhwc(2, 8, 2, 2, dtype=torch.bfloat16)
    torch.library.opcheck(OPS.join, ([a, a[:, :8], a[:, 8:]], [1, 2], [False] * 3))
    torch.library.opcheck(OPS.join, ([b, a], [1, 1], [True, False]))
    torch.library.opcheck(OPS.halve, (a,))


# ---- whole models; that their bits do not depend on what is kept: test_fused.py ----


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def a_model(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = DetectionModel(name, verbose=False).cuda().train().to(memory_format=torch.channels_last)
    return model, nhwc(4, 3, 160, 160, dtype=torch.float32)


def trained(model: nn.Module, x: Tensor, keep: fused.Keep | None) -> tuple[list[Tensor], Tensor]:
    """Outputs, and all gradients in one, after one forward and backward of a copy, in bf16 but for a float64 input.

    `keep` None is upstream's modules.
    """
    model = copy.deepcopy(model).to(x.dtype)
    fused.choose({} if keep is None else {module: keep for module in model.modules() if isinstance(module, Conv)})
    with torch.autocast("cuda", torch.bfloat16, enabled=x.dtype is torch.float32):
        made = model(x)
    outputs = [made["boxes"], made["scores"]]
    torch.stack([output.to(x.dtype).square().mean() for output in outputs]).sum().backward()
    gradients = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return [output.detach() for output in outputs], torch.cat(gradients)


@pytest.mark.filterwarnings("ignore:.*deterministic.*")
@pytest.mark.parametrize("name", ["yolo12n.yaml", "yolo11n.yaml", "yolov8n.yaml"])
def test_a_model_computes_and_learns_as_with_torchs_operations(
    repeatable: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model, x = a_model(name)
    outputs, ours = trained(model, x, fused.Keep.BOTH)
    exact = trained(model, x.double(), None)[1]
    monkeypatch.setattr(join, "_is_taken", lambda _: False)
    by_torch, plain = trained(model, x, fused.Keep.BOTH)
    assert all(map(torch.equal, outputs, by_torch))  # forward copies, and rounds each sum once as torch does
    assert (ours - exact).norm() <= 1.25 * (plain - exact).norm()


def test_torchs_kernels_for_the_same_are_gone_from_a_step() -> None:
    model, x = a_model("yolo12n.yaml")
    fused.choose({module: fused.Keep.BOTH for module in model.modules() if isinstance(module, Conv)})

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            made = model(x)
        (made["boxes"].sum() + made["scores"].sum()).backward()

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    names = {event.key for event in profiler.key_averages()}
    for kernel in ("join_kernel", "join_doubled_kernel", "halve_kernel"):
        assert any(f"::{kernel}" in name for name in names), kernel
    assert not [name for name in names if "upsample_nearest2d" in name]
