# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keep the GFLOPs that ultralytics prints what they are in stock.

Its counter, thop, knows matrix products and the public SDPA function, not the kernels that are called by name here.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

KERNELS = (
    torch._scaled_dot_product_flash_attention,
    torch._scaled_dot_product_cudnn_attention,
    torch._scaled_dot_product_efficient_attention,
    torch._scaled_dot_product_flash_attention_for_cpu,
)


def register() -> None:
    """Add the kernels to thop's table (ultralytics-thop 2.2.3 thop/profile.py:177); without thop nothing is counted."""
    if thop := _counter():
        thop.functional_hooks.update(dict.fromkeys(KERNELS, _count))


def unregister() -> None:
    """Undo `register`."""
    if thop := _counter():
        for kernel in KERNELS:
            thop.functional_hooks.pop(kernel, None)


def _counter() -> ModuleType | None:
    try:
        return importlib.import_module("thop.profile")
    except ModuleNotFoundError:
        return None


def _count(args: tuple[Any, ...], kwargs: dict[str, Any], outputs: tuple[Any, ...]) -> int:
    """Multiply-adds of q @ k^T and scores @ v, for q, k and v of (batch, heads, tokens, head_dim)."""
    del kwargs, outputs
    q, k, v = args[:3]
    batch, heads, queries, head_dim = q.shape
    return batch * heads * queries * k.shape[2] * (head_dim + v.shape[3])
