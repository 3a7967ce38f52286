# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Conv` whose batch norm was folded into its weights (`fuse()`): bias and SiLU in one pass over the convolution's output.

cuDNN's convolutions return without the bias, torch adds it in a pass of its own, and SiLU takes another. Our kernel for batch norm and
activation does both in one, in float32 and rounded once. It walks over rows of channels, so it serves networks that run channels_last; others run
as they were.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from yolov12.model.fused.norm import kernels_missing
from yolov12.seams import Seam

SEAMS = (Seam("nn/modules/conv.py", 89, "ultralytics.nn.modules.conv.Conv.forward_fuse", "8d726f0593bd"),)

_upstream_forward_fuse = Conv.forward_fuse

_constants: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()
"""For each convolution what the kernel takes, and of which bias: where it was and how often it had been written to."""


def forward_fuse(self: Conv, x: Tensor) -> Tensor:
    """Convolution, bias and activation. Replaces ultralytics 8.4.190 nn/modules/conv.py:89."""
    if not _is_served(self, x):
        return _upstream_forward_fuse(self, x)
    conv = self.conv
    y = torch.ops.aten.convolution(
        x, conv.weight, None, conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups
    )
    if not _is_rows(y):
        return self.act(y.add_(conv.bias[:, None, None]))
    return _biased_silu(y, _constants_for(conv))


def constants_of(network: nn.Module) -> list[Tensor]:
    """Tensors that the forward of a network reads and that are not in it: a CUDA graph that has them must keep them."""
    return [_constants[part][1] for part in network.modules() if part in _constants]


def install() -> None:
    """Replace `Conv.forward_fuse`, for networks that are fused from now on; again does nothing."""
    Conv.forward_fuse = forward_fuse


def uninstall() -> None:
    """Put upstream's back, for networks that are fused from now on."""
    Conv.forward_fuse = _upstream_forward_fuse


def _is_served(module: Conv, x: Tensor) -> bool:
    """Whether this call is one for the kernel: an ordinary fused `Conv` of a channels_last network in inference on a GPU."""
    if not x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return _is_ordinary(module, x) and not torch.is_autocast_enabled("cuda") and kernels_missing(x.device) is None


def _is_ordinary(module: Conv, x: Tensor) -> bool:
    conv, act = module.conv, module.act
    return (
        type(conv) is nn.Conv2d
        and type(act) is nn.SiLU
        and conv.bias is not None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and x.dtype is conv.weight.dtype
        and _is_channels_last(x, conv.weight)
        and not (conv._forward_hooks or conv._forward_pre_hooks or act._forward_hooks or act._forward_pre_hooks)
    )


def _is_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether torch will convolve in that layout: one of the two has it, and not only because a dimension is 1."""
    return any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in (x, weight))


def _constants_for(conv: nn.Conv2d) -> Tensor:
    """(4, channels) float32 as `norm.ByKernels` has them: mean, 1 / deviation, scale, and for shift the bias."""
    bias = conv.bias
    assert bias is not None
    written = 0 if bias.is_inference() else bias._version
    known = _constants.get(conv)
    if known is None or known[0] != (bias.data_ptr(), written):
        made = torch.zeros(4, len(bias), dtype=torch.float32, device=bias.device)
        made[1:3].fill_(1)
        made[3].copy_(bias)
        known = _constants[conv] = (bias.data_ptr(), written), made
    return known[1]


def _is_rows(y: Tensor) -> bool:
    return torch.ops.yolov12_kernels.is_rows(y)


def _biased_silu(y: Tensor, constants: Tensor) -> Tensor:
    out = torch.empty_like(y)
    torch.ops.yolov12_kernels.batch_norm_apply(y, constants, True, out, False)
    return out
