# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/attend.cu, compiled for the CPU by g++: what it computes is attention in float64. On a GPU: tests/gpu/test_attend.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.docker.on_host import compiled

TYPES = [torch.float32, torch.float16, torch.bfloat16]
"""In the order of the enum Type (docker/kernels/batch_norm_act.h)."""
TOLERANCE = {torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Weights are rounded as well as the sum of what they weigh."""
HEAD = 32


@pytest.fixture(scope="module")
def library(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(repository / "docker/kernels", "attend", tmp_path_factory.mktemp("attend"))


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (one.double().transpose(1, 2) for one in (q, k, v))
    return ((q @ k.transpose(-2, -1) * HEAD**-0.5).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("sequences", "heads"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("tokens", [1, 17, 64, 65, 330])  # 330: more chunks than stages
def test_it_is_attention(library, dtype, sequences, heads, tokens):
    torch.manual_seed(0)
    channels = heads * HEAD
    packed = torch.full((sequences, tokens, 3 * channels + 8), torch.nan, dtype=dtype)
    packed[..., : 3 * channels] = 2 * torch.randn(sequences, tokens, 3 * channels)
    parts = packed[..., : 3 * channels].split(channels, 2)
    q, k, v = (part.unflatten(2, (heads, HEAD)) for part in parts)
    out = torch.full((sequences, tokens, heads, HEAD), torch.nan, dtype=dtype)
    library.attend_forward(
        (ctypes.c_int * 4)(sequences, tokens, heads, TYPES.index(dtype)),
        *(ctypes.c_void_p(one.data_ptr()) for one in (q, k, v)),
        (ctypes.c_int64 * 3)(*q.stride()[:3]),
        ctypes.c_void_p(out.data_ptr()),
        (ctypes.c_int64 * 3)(*out.stride()[:3]),
    )
    expected = exact(q, k, v)
    assert (out.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
