# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/join.cu, compiled for the CPU by g++, against torch's operations. On a GPU: tests/gpu/test_join.py."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.docker.on_host import compiled

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = [(1, 2, 2), (2, 6, 10)]
"""(images, height, width); the second has more rows than a block takes at once, and no multiple of that."""


@pytest.fixture(scope="module")
def on_host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    kernels, made = repository / "docker/kernels", tmp_path_factory.mktemp("join")
    return compiled(kernels, "join", made, launches=3, options=["-Wno-maybe-uninitialized"])


def part(images: int, channels: int, height: int, width: int, dtype: torch.dtype, seed: int, beside: int = 0) -> Tensor:
    """Some channels of a channels_last tensor that has `beside` more on each side; whole numbers, whose sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randint(-30, 30, (images, channels + 2 * beside, height, width), generator=generator)
    return wide.to(dtype).contiguous(memory_format=torch.channels_last)[:, beside : beside + channels]


def row_stride(x: Tensor) -> int:
    return x.stride(3) if x.shape[3] > 1 else x.shape[1]


def joined(library: ctypes.CDLL, ranges: Sequence[Sequence[Tensor]], doubled: Sequence[bool]) -> Tensor:
    sources = [term for terms in ranges for term in terms]
    images, _, height, width = sources[0].shape
    times = 2 if doubled[0] else 1
    shape = (images, sum(terms[0].shape[1] for terms in ranges), times * height, times * width)
    out = torch.full(shape, 99.0, dtype=sources[0].dtype).contiguous(memory_format=torch.channels_last)
    library.join_on_host(
        *(numbers(of) for of in ([x.data_ptr() for x in sources], [row_stride(x) for x in sources], doubled)),
        len(sources),
        *(numbers(of) for of in ([terms[0].shape[1] for terms in ranges], [len(terms) for terms in ranges])),
        len(ranges),
        images,
        *shape[2:],
        out.dtype is torch.float32,
        ctypes.c_void_p(out.data_ptr()),
    )
    return out


def numbers(of: Sequence[int | bool]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(of))(*of)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_ranges_of_sums_are_torchs(on_host: ctypes.CDLL, dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    images, height, width = size
    for terms in [(1, 1, 1), (2, 1), (1, 3), (4, 2, 1)]:
        ranges = [
            [part(images, 16 + 8 * at, height, width, dtype, 9 * at + term, beside=8 * term) for term in range(count)]
            for at, count in enumerate(terms)
        ]
        expected = torch.cat([torch.stack(of).float().sum(0).to(dtype) for of in ranges], 1)
        assert torch.equal(joined(on_host, ranges, [False] * sum(terms)), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_doubled_ranges_and_their_gradient_are_torchs(
    on_host: ctypes.CDLL, dtype: torch.dtype, size: tuple[int, int, int]
) -> None:
    images, height, width = size
    whole = part(images, 24, height, width, dtype, 0, beside=8)
    small = part(images, 16, height // 2, width // 2, dtype, 1, beside=16)
    upsampled = F.interpolate(small, scale_factor=2.0)
    assert torch.equal(joined(on_host, [[small], [whole]], [True, False]), torch.cat([upsampled, whole], 1))
    assert torch.equal(joined(on_host, [[whole], [small]], [False, True]), torch.cat([whole, upsampled], 1))
    out = torch.empty(images, 24, height // 2, width // 2, dtype=dtype).contiguous(memory_format=torch.channels_last)
    on_host.halve_on_host(
        *(ctypes.c_int64(number) for number in (whole.data_ptr(), row_stride(whole))),
        images,
        *out.shape[2:],
        24,
        dtype is torch.float32,
        ctypes.c_void_p(out.data_ptr()),
    )
    four = F.avg_pool2d(whole.float(), 2) * 4
    assert torch.equal(out, four.to(dtype))


def test_more_channels_than_a_block_has_threads_for(on_host: ctypes.CDLL) -> None:
    ranges = [[part(1, 1040, 2, 2, torch.float32, 0)], [part(1, 8, 2, 2, torch.float32, 1)]]
    assert torch.equal(joined(on_host, ranges, [False, False]), torch.cat([terms[0] for terms in ranges], 1))
