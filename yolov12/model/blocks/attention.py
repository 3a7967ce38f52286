# SPDX-License-Identifier: AGPL-3.0-or-later
"""Area attention in inference, with no kernel that only moves numbers.

Upstream packs the channels of qkv head by head, as [q | k | v] of each: v then lies in pieces, and the depthwise convolution beside the attention
needs a copy of it. Here the filters of qkv are kept once more in another order, [q of all heads | k | v], so that each is some channels of one
tensor. What attends and what convolves read them there, and the convolution adds what attended.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import AAttn
from ultralytics.nn.modules.conv import Conv

from yolov12.model.attention.dispatch import attend
from yolov12.model.attention.op import merge_heads
from yolov12.model.fused import one_kernel
from yolov12.model.fused.beside import made_from
from yolov12.model.fused.one_kernel import convolved, convolved_by, serves
from yolov12.model.hooks import is_heard
from yolov12.seams import Seam

SEAMS = (
    Seam("nn/modules/block.py", 1699, "ultralytics.nn.modules.block.AAttn.forward", "f16c0ffa0bb6"),
    Seam("nn/modules/block.py", 1674, "ultralytics.nn.modules.block.AAttn.__init__", "281c3cc9db2b"),
)


MOST_TOKENS = 512
"""Of a sequence for our kernel. Longer ones FlashAttention reads less often."""


def attended(module: Any, x: Tensor, residual: Tensor) -> Tensor | None:
    """residual + module(x), as nn/modules/block.py:1699 has it; None where that is not for our kernels.

    Args:
        module: whose calls nobody hears, as far as it goes; its parts are looked at.
        x: (images, channels, height, width), for which `is_undisturbed` is so.
        residual: like x.
    """
    if type(module) is not AAttn or not all(_is_bare(part) for part in (module.qkv, module.pe, module.proj)):
        return None
    if not serves(module.qkv.conv, module.qkv.act, x):
        return None
    images, _, height, width = x.shape
    channels = module.all_head_dim
    packed = convolved_by(module, *_in_order_of_parts(module), x, stride=1, silu=False)
    heads = images * module.area, height * width // module.area, module.num_heads, module.head_dim
    q, k, v = packed.split(channels, 1)
    rows = merge_heads(_attend(*(part.permute(0, 2, 3, 1).view(heads) for part in (q, k, v))), images, height, width)
    rows = rows.contiguous(memory_format=torch.channels_last)  # as most kernels leave it
    beside = convolved(module.pe.conv, module.pe.act, v, rows)
    rows = rows + module.pe(v) if beside is None else beside
    made = convolved(module.proj.conv, module.proj.act, rows, residual)
    return residual + module.proj(rows) if made is None else made


def _is_bare(module: Any) -> bool:
    """A `Conv` without an activation, which may be run by its parts."""
    return (
        type(module) is Conv
        and type(module.act) is nn.Identity
        and not any(is_heard(part) for part in (module, module.conv, module.act))
    )


def _in_order_of_parts(module: Any) -> tuple[Tensor, Tensor]:
    """The filters and the bias of qkv, all of q first, then all of k, then all of v."""
    conv = module.qkv.conv

    def make() -> tuple[Tensor, Tensor]:
        shape = module.num_heads, 3, module.head_dim
        order = torch.arange(len(conv.weight), device=conv.weight.device).view(shape).transpose(0, 1).flatten()
        return conv.weight[order].contiguous(memory_format=torch.channels_last), conv.bias[order]

    weight, bias = made_from(module, "qkv", [conv.weight, conv.bias], make)
    return weight, bias


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(sequences, tokens, heads, head_dim), contiguous by our kernel where sequences are short, else by the backend for these tensors."""
    ours = k.shape[1] <= MOST_TOKENS and _takes_heads(q, k, v)
    return _attend_by_ours(q, k, v) if ours else attend(q, k, v)


def _takes_heads(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return torch.ops.yolov12_kernels.is_attend(q, k, v)


def _attend_by_ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.yolov12_kernels.attend(q, k, v, one_kernel.BEGINS_EARLY)
