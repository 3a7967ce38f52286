# SPDX-License-Identifier: AGPL-3.0-or-later
"""What this build has no kernel for, by torch's SDPA: same arguments, layout and meaning, or a NotImplementedError that says why not."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window: tuple[int, int],
    deterministic: bool,
) -> Tensor:
    """Attention over (batch, tokens, heads, head_dim); k and v may have fewer heads, which divide those of q. The result is contiguous."""
    if deterministic and q.is_cuda and torch.is_grad_enabled() and not torch.are_deterministic_algorithms_enabled():
        refuse("deterministic=True for a single call (torch.use_deterministic_algorithms(True) is for all)")
    queries, keys = q.shape[1], k.shape[1]
    plainly_causal = (
        causal and queries == keys and window[0] < 0
    )  # a flag and not a mask, for which torch has fused kernels
    out = scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=None if plainly_causal else visible(queries, keys, causal, window, q.device),
        dropout_p=dropout_p,
        is_causal=plainly_causal,
        scale=softmax_scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2).contiguous()


def visible(queries: int, keys: int, causal: bool, window: tuple[int, int], device: torch.device) -> Tensor | None:
    """Which keys each query sees, as a (queries, keys) mask where True is seen; None when it is all of them.

    As upstream defines it: the last query is level with the last key, and each sees the keys from `window[0]` before to `window[1]` after
    its own place; -1 is no limit. Causal means none after it.
    """
    left, right = window[0], 0 if causal and queries > 1 else window[1]
    if left < 0 and right < 0:
        return None
    if 0 <= right < queries - keys:
        refuse(f"{queries} queries over {keys} keys, of which the first queries see none")
    offset = torch.arange(keys, device=device) - (torch.arange(queries, device=device)[:, None] + keys - queries)
    seen = torch.ones_like(offset, dtype=torch.bool)
    if left >= 0:
        seen &= offset >= -left
    if right >= 0:
        seen &= offset <= right
    return seen


def refuse(what: str) -> NoReturn:
    """Raise NotImplementedError for what SDPA can not do either."""
    raise NotImplementedError(
        f"{what}: neither in this build of flash_attn, which is for head_dim 32 without options, nor in torch's SDPA, its fallback:"
        " install upstream's flash-attn"
    )
