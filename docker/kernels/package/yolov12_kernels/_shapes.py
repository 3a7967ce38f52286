# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the ops return, for tensors without data: FakeTensorMode and torch's own checks of ops ask that. Import after the library is loaded."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANTS = 4
"""Mean, 1 / deviation, scale and shift of each channel."""


@torch.library.register_fake("yolov12_kernels::batch_norm_statistics")
def batch_norm_statistics(
    y: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """(4, channels) float32 for y of (images, channels, height, width)."""
    return y.new_empty((CONSTANTS, y.shape[1]), dtype=torch.float32)


@torch.library.register_fake("yolov12_kernels::batch_norm_apply")
def batch_norm_apply(y: Tensor, constants: Tensor, silu: bool, out: Tensor, accumulate: bool) -> None:
    """Nothing: it writes into `out`."""


@torch.library.register_fake("yolov12_kernels::batch_norm_gradient")
def batch_norm_gradient(grad_out: Tensor, y: Tensor, constants: Tensor, silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of y, channels_last, and those of gamma and beta, float32."""
    grad_y = torch.empty_like(y, memory_format=torch.channels_last)
    return grad_y, y.new_empty(y.shape[1], dtype=torch.float32), y.new_empty(y.shape[1], dtype=torch.float32)
