# SPDX-License-Identifier: AGPL-3.0-or-later
"""A convolution in inference by cuDNN, with all that follows it in one pass of ours over its output: bias, SiLU, and the sum of a shortcut.

Where sums are deep and outputs many, cuDNN's kernels for tensor cores gain more than the pass takes, and than ours do that are a convolution whole
(one_kernel.py). docs/predict.md has what was measured.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov12.model.fused.beside import made_from

DEEP = 256
"""Products of each sum from which on cuDNN's kernels gain: input channels times pixels of the filter."""
LARGE = 2 * 10**9
"""Operations of a convolution from which on they do; two for each product."""


def are_faster(x: Tensor, weight: Tensor, stride: int, out: Tensor) -> bool:
    """Whether cuDNN and a pass take less than one kernel of ours, and take these tensors as they lie.

    Args:
        x: (images, channels, height, width), half precision; some channels of a wider tensor would be copied for cuDNN, so these it is not for.
        weight: (out_channels, channels, side, side).
        stride: of the filter.
        out: (images, out_channels, height / stride, width / stride).
    """
    depth = weight[0].numel()
    if depth < DEEP or 2 * depth * out.numel() < LARGE:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and _is_rows(out)


def convolve(
    owner: nn.Module,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    stride: int,
    silu: bool,
    residual: Tensor | None,
    out: Tensor,
) -> None:
    """out = residual + act(conv(x) + bias); the convolution is rounded, and the activation before it is added.

    Args:
        owner: the module beside which the constants are kept (beside.py).
        weight: as for `are_faster`, which was so of these tensors.
        bias: (out_channels).
        x: as there.
        stride: as there.
        silu: whether the activation is SiLU; else there is none.
        residual: like `out`; None is zeros.
        out: as there; it may be some channels of a wider tensor.
    """
    y = F.conv2d(x, weight, None, stride, weight.shape[2] // 2)
    if residual is not None:
        out.copy_(residual)
    finish(y, constants_for(owner, bias), silu, out, residual is not None)


def constants_for(owner: nn.Module, bias: Tensor) -> Tensor:
    """(4, channels) float32 as `norm.ByKernels` has them: mean, 1 / deviation, scale, and for shift the bias."""

    def make() -> tuple[Tensor]:
        made = torch.zeros(4, len(bias), dtype=torch.float32, device=bias.device)
        made[1:3].fill_(1)
        made[3].copy_(bias)
        return (made,)

    return made_from(owner, "constants", [bias], make)[0]


def finish(y: Tensor, constants: Tensor, silu: bool, out: Tensor, is_added: bool) -> None:
    """out = act(y + bias), or out += that; the bias as `constants_for` has it."""
    torch.ops.yolov12_kernels.batch_norm_apply(y, constants, silu, out, is_added)


def _is_rows(t: Tensor) -> bool:
    return torch.ops.yolov12_kernels.is_rows(t)
