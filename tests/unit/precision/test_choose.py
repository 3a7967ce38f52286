# SPDX-License-Identifier: AGPL-3.0-or-later
"""The number format of a run, for every kind of card, without one."""

from __future__ import annotations

import pytest
import torch

from yolov12 import precision
from yolov12.errors import UserError


@pytest.mark.parametrize(
    ("name", "capability", "request_", "dtype"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "1", torch.bfloat16),
        ("NVIDIA A10", (8, 6), "1", torch.bfloat16),
        ("Tesla T4", (7, 5), "1", torch.float16),
        ("Tesla T4", (7, 5), "0", None),
        ("NVIDIA GeForce GTX 1660", (7, 5), "1", None),
        ("NVIDIA GeForce GTX 1660", (7, 5), "fp16", None),
        ("NVIDIA H100 80GB HBM3", (9, 0), "fp16", torch.float16),
        ("NVIDIA H100 80GB HBM3", (9, 0), "0", None),
    ],
)
def test_each_card_gets_the_format_it_computes_in(
    name: str, capability: tuple[int, int], request_: str, dtype: torch.dtype | None
) -> None:
    chosen, reason = precision.choose_for_gpu(name, capability, request_)
    assert chosen == dtype
    assert reason


def test_fp16_that_was_asked_for_on_a_faulty_card_becomes_fp32_and_says_why() -> None:
    _, reason = precision.choose_for_gpu("NVIDIA GeForce GTX 1660", (7, 5), "fp16")
    assert reason == "fp32 (fp16 is known to give NaN on NVIDIA GeForce GTX 1660)"


def test_bf16_on_a_card_without_it_is_refused_with_what_to_type() -> None:
    with pytest.raises(UserError, match="Tesla T4 is sm_75; use amp=fp16"):
        precision.choose_for_gpu("Tesla T4", (7, 5), "bf16")


def test_the_cpu_trains_in_fp32() -> None:
    dtype, reason = precision.choose(torch.device("cpu"))
    assert dtype is None
    assert "fp32" in reason


def test_a_half_format_on_the_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="amp=bf16 needs a CUDA device"):
        precision.choose(torch.device("cpu"), "bf16")
