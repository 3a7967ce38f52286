# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Conv` whose batch norm was folded into its weights (`fuse()`): depthwise and stem by our kernels, bias and SiLU in one pass over the output.

cuDNN would choose kernels for a depthwise convolution anew for each shape, for seconds in a network, and copies the pictures for a stem
(convolution.py); ours serve any layout.

cuDNN's convolutions return without the bias, torch adds it in a pass of its own, and SiLU takes another. Where predictions run by graphs,
our kernel for batch norm and activation does both in one, in float32 and rounded once. It walks over rows of channels, so it serves networks
that run channels_last. Unless YOLOV12_PREDICT_KERNELS=0, a kernel of ours is the whole of a convolution in half precision (one_kernel.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from yolov12.model.fused.convolution import Geometry, by_our_kernel, convolve, is_channels_last
from yolov12.model.fused.one_kernel import convolved, is_undisturbed
from yolov12.model.fused.two_kernels import constants_for, finish
from yolov12.model.hooks import is_heard
from yolov12.seams import Seam

SEAMS = (Seam("nn/modules/conv.py", 89, "ultralytics.nn.modules.conv.Conv.forward_fuse", "8d726f0593bd"),)

_upstream_forward_fuse = Conv.forward_fuse

Forward = Callable[[Conv, Tensor], Tensor]


def _by_upstreams_name(forward: Forward) -> Forward:
    # `fuse()` binds it to each layer, and pickle writes a bound function down by its name: stock has none but this.
    forward.__name__ = _upstream_forward_fuse.__name__
    return forward


def forward_fuse(self: Conv, x: Tensor) -> Tensor:
    """Convolution, bias and activation, a depthwise convolution or a stem by our kernel. Replaces ultralytics 8.4.190 nn/modules/conv.py:89."""
    y = by_our_kernel(self.conv, x)
    return _upstream_forward_fuse(self, x) if y is None else self.act(y)


@_by_upstreams_name
def forward_fuse_in_one_pass(self: Conv, x: Tensor) -> Tensor:
    """As `forward_fuse`, with bias and activation in one pass where the kernel serves."""
    if not (is_undisturbed(x) and _is_ordinary(self, x)):
        return forward_fuse(self, x)
    conv = self.conv
    y = convolve(x, conv.weight, Geometry.of(conv))
    if not _is_rows(y):
        return self.act(y.add_(conv.bias[:, None, None]))
    return _biased_silu(y, constants_for(conv, conv.bias))


@_by_upstreams_name
def forward_fuse_in_one_kernel(self: Conv, x: Tensor) -> Tensor:
    """As `forward_fuse_in_one_pass`, but the convolution as well, where its kernel serves."""
    made = convolved(self.conv, self.act, x) if is_undisturbed(x) else None
    return forward_fuse_in_one_pass(self, x) if made is None else made


def install(in_one_pass: bool, in_one_kernel: bool = False) -> None:
    """Replace `Conv.forward_fuse`, for networks that are fused from now on; again does nothing.

    Args:
        in_one_pass: bias and activation too, not only depthwise convolutions and the stem.
        in_one_kernel: what of it a kernel does together with the convolution.
    """
    ordinary = forward_fuse_in_one_pass if in_one_pass else forward_fuse
    Conv.forward_fuse = forward_fuse_in_one_kernel if in_one_kernel else ordinary


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
        and is_channels_last(x, conv.weight)
        and not (is_heard(conv) or is_heard(act))
    )


def _is_rows(y: Tensor) -> bool:
    return torch.ops.yolov12_kernels.is_rows(y)


def _biased_silu(y: Tensor, constants: Tensor) -> Tensor:
    out = torch.empty_like(y)
    finish(y, constants, silu=True, out=out, is_added=False)
    return out
