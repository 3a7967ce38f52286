# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the setting and a tensor's device to a kernel: decided once per case, printed once, then a dict lookup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from yolov12.log import say_once
from yolov12.model.attention import backends, kernels
from yolov12.model.attention.backends import BACKENDS, Case, Kernel
from yolov12.model.attention.choose import LARGE_ROWS, Choice, choose, validated

_request: str | None = None
"""What `configure` was told; None: ask the settings at the first decision."""
_override: Kernel | None = None
"""A kernel to call instead of the chosen one: for tests, and for tracing without data."""


class _Key(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    training: bool
    head_dim: int
    large: bool
    deterministic: str


_decided: dict[_Key, str] = {}
_probed: dict[tuple[str, _Key], str | None] = {}


def configure(flash_attn: str) -> None:
    """Set what YOLOV12_FLASH_ATTN says: `1` best, `0` plain, or a backend's name; `UserError` for anything else.

    Holds for every forward from now on, except in graphs that torch.compile has already made.
    """
    global _request
    _request = validated(flash_attn)
    _decided.clear()


def describe(
    device: torch.device | str, dtype: torch.dtype, training: bool, head_dim: int = 32, large: bool = False
) -> tuple[str, str]:
    """(backend, reason) that a forward of this kind would get; `UserError` if it would be refused. Prints nothing."""
    key = _Key(torch.device(device), dtype, training, head_dim, large, _deterministic())
    return _decide(key, _case(key))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (batch, tokens, heads, head_dim) on the backend for these tensors. Says once what was chosen.

    `torch.export` gets torch's public function instead, whose kernel is chosen by what compiles or runs the exported program.
    """
    if _override is not None:
        return _override(q, k, v)
    # While dynamo traces, torch 2.11 answers True to both (torch/_dynamo/variables/torch.py:223).
    if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
        return kernels.sdpa(q, k, v)  # what leaves this package needs torch alone
    is_large = q.shape[0] * q.shape[1] * q.shape[2] >= LARGE_ROWS
    return BACKENDS[_backend_for(q.device, q.dtype, q.requires_grad, q.shape[-1], is_large)].run(q, k, v)


@contextmanager
def replaced_by(kernel: Kernel) -> Iterator[None]:
    """Call `kernel` in place of the chosen one in this block."""
    global _override
    before, _override = _override, kernel
    try:
        yield
    finally:
        _override = before


def _backend_for(device: torch.device, dtype: torch.dtype, training: bool, head_dim: int, is_large: bool) -> str:
    """The decision as a name. Under torch.compile it is made while tracing: the graph holds the chosen kernel alone."""
    key = _Key(device, dtype, training, head_dim, is_large, _deterministic())
    known = _decided.get(key)
    if known is not None:
        return known
    case = _case(key)
    backend, reason = _decide(key, case)
    if not case.beside_gpu:
        say_once(f"attention {case} {backend}", f"attention: {backend} ({case}): {reason}")
    _decided[key] = backend
    return backend


# What torch.compiler.assume_constant_result does (torch/_dynamo/decorators.py:177), without importing the whole of dynamo for it, which
# takes seconds at the start of every run.
_backend_for._dynamo_marked_constant = True  # type: ignore[attr-defined]  # an attribute that only dynamo knows


def _decide(key: _Key, case: Case) -> Choice:
    return choose(case, _requested(), lambda name, case: _why_not(name, case, key))


def _requested() -> str:
    if _request is None:
        from yolov12 import settings  # here, so that kernels can be used without the settings

        configure(settings.current().flash_attn)
    return str(_request)


def _case(key: _Key) -> Case:
    on_gpu = key.device.type == "cuda"
    return Case(
        device_type=key.device.type,
        capability=torch.cuda.get_device_capability(key.device) if on_gpu else None,
        dtype=key.dtype,
        training=key.training,
        head_dim=key.head_dim,
        large=key.large,
        deterministic=key.deterministic,
        beside_gpu=not on_gpu and torch.cuda.is_available(),
    )


def _deterministic() -> str:
    return ("off", "warn", "strict")[torch.get_deterministic_debug_mode()]


def _why_not(name: str, case: Case, key: _Key) -> str | None:
    """What is known against the backend, and on a GPU what a small run of it says: not every build has every kernel."""
    reason = backends.why_not(name, case)
    if reason or BACKENDS[name].device_type != "cuda":
        return reason
    tried = name, key._replace(large=False)  # the trial is a small one either way
    if tried not in _probed:
        _probed[tried] = probe(BACKENDS[name].run, key.device, key.dtype, key.training, key.head_dim)
    return _probed[tried]


def probe(kernel: Kernel, device: torch.device, dtype: torch.dtype, training: bool, head_dim: int) -> str | None:
    """Run the kernel once on one area of one image, backward too if training: the start of its error, or None.

    Running out of memory says nothing about the kernel and is raised as it came.
    """
    try:
        with (
            # Hidden from modes such as the one that counts GFLOPs, which would take the trial for a part of the model.
            torch._C.DisableTorchFunction(),
            torch.inference_mode(False),
            torch.set_grad_enabled(training),
            torch.autocast(device.type, enabled=False),
        ):
            packed = torch.zeros(1, 400, 2, 3 * head_dim, device=device, dtype=dtype, requires_grad=training)
            out = kernel(*packed.split(head_dim, dim=-1))
            if training:
                out.sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # a launch error shows here, and not in some later call
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return f"failed a trial run: {str(error).strip().splitlines()[0][:160]}"
    return None
