# SPDX-License-Identifier: AGPL-3.0-or-later
"""The layout of area attention: where its speed is won or lost.

Every fused kernel wants the last dimension of q, k and v contiguous. Split from an NCHW tensor, it strides over whole
planes: torch's own dispatcher then takes its unfused math path without a word, and a kernel that is called by name may
read wrong numbers. So the one layout here is NHWC: a view where the convolution wrote channels_last, one copy where it
did not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolov12.model.fused import join


def split_heads(qkv: Tensor, heads: int, head_dim: int, area: int) -> tuple[Tensor, Tensor, Tensor]:
    """The qkv convolution's output as q, k and v: (batch * area, tokens / area, heads, head_dim) each, last stride 1.

    `qkv` is (batch, 3 * heads * head_dim, height, width). Upstream packs its channels per head as [q_h | k_h | v_h], and
    cuts the row-major tokens into `area` equal runs (ultralytics 8.4.190 nn/modules/block.py:1711-1719).
    """
    q, k, v = _packed(qkv, heads, head_dim, area).split(head_dim, dim=-1)
    return q, k, v


def split_heads_for_two(qkv: Tensor, heads: int, head_dim: int, area: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `split_heads`, with v once more for the position encoding: for our kernel, contiguous, which `merge_heads` then need not copy.

    In backward that kernel puts the gradients of all four where they belong in one pass.
    """
    if torch.compiler.is_compiling() or not join.serves(qkv):
        q, k, v = split_heads(qkv, heads, head_dim, area)
        return q, k, v, v
    rows = _packed(qkv, heads, head_dim, area).permute(0, 3, 1, 2)  # as if each head of a token were a pixel
    q, k, v = join.divided(rows, [head_dim] * 3)
    q, k, v, alone = (part.permute(0, 2, 3, 1) for part in (join.use(q), join.use(k), join.use(v), join.alone(v)))
    return q, k, v, alone


def _packed(qkv: Tensor, heads: int, head_dim: int, area: int) -> Tensor:
    batch, _, height, width = qkv.shape
    rows = qkv.permute(0, 2, 3, 1).contiguous()
    return rows.view(batch * area, height * width // area, heads, 3 * head_dim)


def merge_heads(x: Tensor, batch: int, height: int, width: int) -> Tensor:
    """(batch * area, tokens / area, heads, head_dim) -> (batch, heads * head_dim, height, width) in channels_last.

    No copy if `x` is contiguous, as the fused kernels return it; one copy for v, which is interleaved with q and k.
    """
    channels = x.shape[-2] * x.shape[-1]
    return x.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
