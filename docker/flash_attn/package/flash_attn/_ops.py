# SPDX-License-Identifier: AGPL-3.0-or-later
"""The compiled ops `flash_attn_hd32::forward` and `backward`, as autograd and torch.compile need to know them.

Importing this module loads the library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flash_attn import _build


def _load() -> None:
    """ImportError, and not undefined symbols, when torch is of another release than the library was built against."""
    if _release(torch.__version__) != _release(_build.TORCH):
        raise ImportError(
            f"flash_attn {_build.VERSION} was built against torch {_build.TORCH}, and this is torch {torch.__version__}: build it again"
        )
    torch.ops.load_library(str(Path(__file__).with_name("_hd32.so")))


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, deterministic: bool) -> tuple[Tensor, Tensor]:
    """out, contiguous and of q's shape (batch, tokens, heads, 32), and lse: fp32 of shape (batch, heads, tokens)."""
    batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, tokens), dtype=torch.float32)


def _fake_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    softmax_scale: float,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv, each contiguous."""
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.softmax_scale, ctx.deterministic = inputs
    ctx.save_for_backward(q, k, v, *output)
    # The backward kernel has no term for it, and a gradient that is quietly left out would be wrong.
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_out: Tensor, _grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.flash_attn_hd32.backward(grad_out, *ctx.saved_tensors, ctx.softmax_scale, ctx.deterministic)
    return *gradients, None, None


_load()
torch.library.register_fake("flash_attn_hd32::forward", _fake_forward)
torch.library.register_fake("flash_attn_hd32::backward", _fake_backward)
torch.library.register_autograd("flash_attn_hd32::forward", _backward, setup_context=_save)

forward = torch.ops.flash_attn_hd32.forward
"""(q, k, v, softmax_scale, deterministic) -> (out, lse), as `_fake_forward` says; differentiable in q, k and v."""
