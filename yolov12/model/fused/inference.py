# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Conv` whose batch norm was folded into its weights (`fuse()`): with bias and activation in one kernel, or in one pass over the output.

cuDNN would choose kernels for a depthwise convolution anew for each shape, for seconds in a network (convolution.py); ours serve any layout.

cuDNN's convolutions return without the bias, torch adds it in a pass of its own, and SiLU takes another. Where predictions by graphs are asked
for, a kernel of ours is the whole of a convolution in half precision (one_kernel.py). After those that it does not take, our kernel for batch norm
and activation does both in one pass, in float32 and rounded once. Both are for networks that run channels_last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from yolov12.model.fused.beside import made_from
from yolov12.model.fused.convolution import Geometry, by_our_kernel, convolve
from yolov12.model.fused.one_kernel import convolved, is_heard, is_undisturbed
from yolov12.seams import Seam

SEAMS = (Seam("nn/modules/conv.py", 89, "ultralytics.nn.modules.conv.Conv.forward_fuse", "8d726f0593bd"),)

_upstream_forward_fuse = Conv.forward_fuse


def forward_fuse(self: Conv, x: Tensor) -> Tensor:
    """Convolution, bias and activation, a depthwise convolution by our kernel. Replaces ultralytics 8.4.190 nn/modules/conv.py:89."""
    y = by_our_kernel(self.conv, x)
    return _upstream_forward_fuse(self, x) if y is None else self.act(y)


def forward_fuse_in_one_pass(self: Conv, x: Tensor) -> Tensor:
    """As `forward_fuse`, in one kernel, or with bias and activation in one pass, where these serve."""
    if not is_undisturbed(x):
        return forward_fuse(self, x)
    made = convolved(self.conv, self.act, x)
    if made is not None:
        return made
    if not _is_ordinary(self, x):
        return forward_fuse(self, x)
    conv = self.conv
    y = convolve(x, conv.weight, Geometry.of(conv))
    if not _is_rows(y):
        return self.act(y.add_(conv.bias[:, None, None]))
    return _biased_silu(y, constants_for(conv))


def install(in_one_pass: bool) -> None:
    """Replace `Conv.forward_fuse`, for networks that are fused from now on; again does nothing.

    Args:
        in_one_pass: bias and activation with the convolution or after it, not only depthwise convolutions.
    """
    Conv.forward_fuse = forward_fuse_in_one_pass if in_one_pass else forward_fuse


def uninstall() -> None:
    """Put upstream's back, for networks that are fused from now on."""
    Conv.forward_fuse = _upstream_forward_fuse


def _is_ordinary(module: Conv, x: Tensor) -> bool:
    """Whether bias and activation of this call are for the kernel that does both in one pass."""
    conv, act = module.conv, module.act
    return (
        type(conv) is nn.Conv2d
        and type(act) is nn.SiLU
        and conv.bias is not None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and x.dtype is conv.weight.dtype
        and _is_channels_last(x, conv.weight)
        and not (is_heard(conv) or is_heard(act))
    )


def _is_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether torch will convolve in that layout: one of the two has it, and not only because a dimension is 1."""
    return any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in (x, weight))


def constants_for(conv: nn.Conv2d) -> Tensor:
    """(4, channels) float32 as `norm.ByKernels` has them: mean, 1 / deviation, scale, and for shift the bias."""
    bias = conv.bias
    assert bias is not None

    def make() -> tuple[Tensor]:
        made = torch.zeros(4, len(bias), dtype=torch.float32, device=bias.device)
        made[1:3].fill_(1)
        made[3].copy_(bias)
        return (made,)

    return made_from(conv, "constants", [bias], make)[0]


def _is_rows(y: Tensor) -> bool:
    return torch.ops.yolov12_kernels.is_rows(y)


def _biased_silu(y: Tensor, constants: Tensor) -> Tensor:
    out = torch.empty_like(y)
    torch.ops.yolov12_kernels.batch_norm_apply(y, constants, True, out, False)
    return out
