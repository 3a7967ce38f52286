# SPDX-License-Identifier: AGPL-3.0-or-later
"""Clipping has the bits of torch's, and asks torch where gradients are of several kinds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.unit.engine.counted import Calls
from yolov12.engine.clip import clip_grad_norm_

NUMBERS = [1e-3, 1.0, 1e3, float("inf"), float("nan")]


def parameters(
    scale: float, seed: int = 0, dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 3
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for dtype, shape in zip(dtypes, [(4, 3), (5,), (2, 2, 2)], strict=True):
        parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
        parameter.grad = (scale * torch.randn(shape, generator=generator)).to(dtype)
        made.append(parameter)
    return [*made, nn.Parameter(torch.zeros(1))]  # frozen: it has no gradient


def assert_as_torchs(ours: list[nn.Parameter], stocks: list[nn.Parameter], max_norm: float) -> None:
    norm, expected = clip_grad_norm_(iter(ours), max_norm), nn.utils.clip_grad_norm_(stocks, max_norm)
    torch.testing.assert_close(norm, expected, rtol=0, atol=0, equal_nan=True)
    for mine, stock in zip(ours, stocks, strict=True):
        torch.testing.assert_close(mine.grad, stock.grad, rtol=0, atol=0, equal_nan=True)


@given(scale=st.sampled_from(NUMBERS), max_norm=st.sampled_from([0.5, 10.0]), seed=st.integers(0, 2**16))
def test_the_bits_are_torchs(scale: float, max_norm: float, seed: int) -> None:
    assert_as_torchs(parameters(scale, seed), parameters(scale, seed), max_norm)


def test_gradients_of_two_types_are_left_to_torch() -> None:
    kinds = (torch.float32, torch.float64, torch.float32)
    assert_as_torchs(parameters(100.0, dtypes=kinds), parameters(100.0, dtypes=kinds), 10.0)


def test_torchs_other_arguments_are_torchs() -> None:
    ours, stocks = parameters(100.0), parameters(100.0)
    clip_grad_norm_(ours, 10.0, norm_type=1.0)
    nn.utils.clip_grad_norm_(stocks, 10.0, norm_type=1.0)
    assert all(map(torch.equal, [p.grad for p in ours[:3]], [p.grad for p in stocks[:3]]))  # type: ignore[arg-type]  # they have one
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(parameters(float("inf")), 10.0, error_if_nonfinite=True)
    clip_grad_norm_(ours[0], 1.0)
    assert ours[0].grad is not None
    assert ours[0].grad.norm() <= 1.0 + 1e-5


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_grad_norm_([nn.Parameter(torch.zeros(2))], 10.0) == 0


@pytest.mark.parametrize("copies", [1, 50])
def test_the_calls_do_not_grow_with_the_tensors(copies: int) -> None:
    many = [parameter for seed in range(copies) for parameter in parameters(1.0, seed)]
    with Calls() as calls:
        clip_grad_norm_(many, 10.0)
    assert calls.count < 10
