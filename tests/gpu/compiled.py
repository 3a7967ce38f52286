# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests of our compiled kernels share. Importing it skips a test file where the wheel is neither installed nor on PYTHONPATH."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolov12.model.fused import norm

kernels = pytest.importorskip(
    "yolov12_kernels", reason="the yolov12_kernels wheel is neither installed nor on PYTHONPATH"
)

OPS = torch.ops.yolov12_kernels
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCE = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float32: 2e-5}
"""Largest difference from float64 as a share of the largest value: half of the last place, which the halves are rounded to once."""


def skip_without_code(least: tuple[int, int] = (0, 0)) -> None:
    """Skip the test where the kernels do not serve this GPU, or its compute capability is below `least`, which some of them need, and say why."""
    if reason := norm.kernels_missing(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip(f"yolov12_kernels {kernels.__version__}: {reason}")
    if (found := torch.cuda.get_device_capability()) < least:
        pytest.skip(f"the kernel needs a GPU of compute capability {least}, and this one has {found}")


def nhwc(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normally distributed numbers (images, channels, height, width), channels_last."""
    generator = torch.Generator("cuda").manual_seed(seed)
    made = torch.randn(shape, device="cuda", generator=generator)
    return made.to(dtype, memory_format=torch.channels_last)
