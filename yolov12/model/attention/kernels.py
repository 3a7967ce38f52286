# SPDX-License-Identifier: AGPL-3.0-or-later
"""The attention kernels, one small function each: (q, k, v) -> out, all of shape (batch, tokens, heads, head_dim).

The SDPA kernels are called by name and not through `scaled_dot_product_attention` under `sdpa_kernel(...)`: a kernel
called by name runs or raises, it can not turn into another one; `sdpa_kernel` sets flags of the whole process, which
threads that serve several models would set for each other; and setting and restoring them costs host time in every
layer, which counts when one image is the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from yolov12.model.attention import flash_package


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Upstream's own arithmetic (block.py:1720-1722): q scaled first, softmax in the precision that autocast gives it."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


def sdpa_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-2 as torch brings it."""
    q, k, v = _heads_first(q, k, v)
    if torch.compiler.is_compiling():
        return _traceable(SDPBackend.FLASH_ATTENTION, q, k, v)
    return torch._scaled_dot_product_flash_attention(q, k, v)[0].transpose(1, 2)


def sdpa_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """cuDNN's fused attention, through torch."""
    if k.shape[1] == 1:
        return v  # cuDNN takes no sequence of one token; the softmax over one score is 1
    q, k, v = _heads_first(q, k, v)
    if torch.compiler.is_compiling():
        return _traceable(SDPBackend.CUDNN_ATTENTION, q, k, v)
    return torch._scaled_dot_product_cudnn_attention(q, k, v, None, torch.is_grad_enabled())[0].transpose(1, 2)


def sdpa_efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's memory-efficient attention: the one fused kernel for fp32, and for GPUs below sm_80."""
    q, k, v = _heads_first(q, k, v)
    return torch._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled())[0].transpose(1, 2)


def sdpa_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's flash attention for CPUs."""
    q, k, v = _heads_first(q, k, v)
    return torch._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0].transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's public function, which chooses a kernel by itself: no backend here, but what an exported program is made of."""
    q, k, v = _heads_first(q, k, v)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def flash_attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The installed `flash_attn` package, whose layout is the one used here."""
    _require_rows(q, k, v)
    return flash_package.attend(q, k, v)


def _traceable(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same kernel for torch.compile, which in torch 2.11 can not trace a kernel by name that also returns random state.

    With one backend allowed sdpa raises too where that one can not run, and the flags are set while tracing only.
    """
    with sdpa_kernel([backend]):
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _heads_first(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, tokens, heads, head_dim) -> views in the (batch, heads, tokens, head_dim) that torch's kernels take."""
    _require_rows(q, k, v)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _require_rows(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse what a kernel called by name may read wrongly: torch checks this in its own dispatcher only."""
    if not q.stride(-1) == k.stride(-1) == v.stride(-1) == 1:
        strides = f"q {q.stride()}, k {k.stride()}, v {v.stride()}"
        raise RuntimeError(
            f"fused attention needs a last stride of 1, got strides {strides}: split with op.split_heads"
        )
