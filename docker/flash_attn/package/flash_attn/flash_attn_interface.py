# SPDX-License-Identifier: AGPL-3.0-or-later
"""`flash_attn_func` and `flash_attn_qkvpacked_func` with upstream's arguments (flash_attn 2.8.3.post2, flash_attn_interface.py:998, 1135).

Head dimension 32, fp16 or bf16, on a GPU that there is code for, without mask or dropout: the compiled ops. The rest: torch's SDPA.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from flash_attn import _build, _fallback, _ops

HEAD_DIM = 32
HALVES = (torch.float16, torch.bfloat16)
Decision = TypeVar("Decision", bound=Callable[..., object])
_noticed: set[str] = set()


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """softmax(q k^T * softmax_scale) v over (batch, tokens, heads, head_dim); the result is contiguous.

    `softmax_scale` defaults to head_dim ** -0.5. `deterministic` makes gradients bit-equal from run to run, as torch's deterministic mode
    does too. `return_attn_probs` adds the log of each row's softmax sum, (batch, heads, tokens) in fp32, and an empty tensor, which is
    what upstream returns for the probabilities where nothing is dropped.

    Raises:
        NotImplementedError: what neither the compiled ops nor SDPA can do, such as softcap, ALiBi, or probabilities in fp32.
        RuntimeError: tensors that do not go together, or whose first element is not at a multiple of 16 bytes.
    """
    left, right = (-1 if limit >= k.shape[1] else limit for limit in window_size)
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    options = {
        "dropout": dropout_p > 0,
        "a causal mask": causal and q.shape[1] > 1,
        "a window": left >= 0 or right >= 0,
        "softcap": softcap > 0,
        "ALiBi": alibi_slopes is not None,
    }
    reason = _why_not_compiled(q, k, [name for name, asked in options.items() if asked])
    if reason is None:
        scale = HEAD_DIM**-0.5 if softmax_scale is None else softmax_scale
        out, lse = _ops.forward(_in_rows(q), _in_rows(k), _in_rows(v), scale, deterministic)
        return (out, lse, q.new_empty(0)) if return_attn_probs else out
    if softcap > 0 or alibi_slopes is not None or return_attn_probs:
        _fallback.refuse("softcap, alibi_slopes or return_attn_probs")
    _notice(reason)
    return _fallback.sdpa(q, k, v, dropout_p, softmax_scale, causal, (left, right), deterministic)


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """`flash_attn_func` over one tensor (batch, tokens, 3, heads, head_dim), read in place."""
    q, k, v = qkv.unbind(dim=2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs
    )


def why_not(capability: tuple[int, int]) -> str | None:
    """Why GPUs of this CUDA compute capability, (9, 0) say, are served by SDPA; None if the compiled ops serve them."""
    major, minor = capability
    if any(int(arch) // 10 == major and int(arch) % 10 <= minor for arch in _build.ARCHS):
        return None
    return f"there is code for {', '.join(f'sm_{arch}' for arch in _build.ARCHS)}, and this GPU is sm_{major}{minor}"


def _constant_in_graphs(decision: Decision) -> Decision:
    """torch.compiler.assume_constant_result (torch/_dynamo/decorators.py:177) without importing all of dynamo, which takes seconds."""
    decision._dynamo_marked_constant = True  # type: ignore[attr-defined]  # an attribute that only dynamo knows
    return decision


def _why_not_compiled(q: Tensor, k: Tensor, options: list[str]) -> str | None:
    """Why the compiled ops can not serve a call, in words for the user; None if they can. `options` are those it asks for."""
    if q.device.type != "cuda":
        return f"the tensors are on {q.device.type}"
    if reason := _why_not_on_device(q.device.index):
        return reason
    if q.dtype not in HALVES:
        return f"{str(q.dtype).removeprefix('torch.')} is neither float16 nor bfloat16"
    if q.shape[-1] != HEAD_DIM:
        return f"head_dim is {q.shape[-1]}, not {HEAD_DIM}"
    if k.shape[2] != q.shape[2]:
        return "k and v have fewer heads than q"
    if q.numel() == 0 or k.numel() == 0:
        return "there is nothing to attend"
    return f"{' and '.join(options)} asked for" if options else None


@_constant_in_graphs
def _why_not_on_device(index: int | None) -> str | None:
    return why_not(torch.cuda.get_device_capability(index))


@_constant_in_graphs
def _notice(reason: str) -> None:
    """Warn once for each reason. Under torch.compile that is while tracing, and not in the graph."""
    if reason not in _noticed:
        _noticed.add(reason)
        warnings.warn(
            f"flash_attn {_build.VERSION}: {reason}: torch's scaled_dot_product_attention runs instead", stacklevel=3
        )


def _in_rows(x: Tensor) -> Tensor:
    """As the kernels can read it, copied if need be: last stride 1, the others multiples of 16 bytes."""
    *others, last = x.stride()
    return x if last == 1 and all(stride % 8 == 0 for stride in others) else x.contiguous()
