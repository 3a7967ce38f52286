# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which number format a training run uses, and why."""

from __future__ import annotations

import re

import torch

from yolov12.errors import UserError

# Turing and Kepler cards on which fp16 autocast gives NaN; the list is ultralytics' own (utils/checks.py:1010).
FAULTY_FP16 = re.compile(
    r"(nvidia|geforce|quadro|tesla).*?(1660|1650|1630|t400|t550|t600|t1000|t1200|t2000|k40m)", re.I
)

ARGUMENT = {torch.bfloat16: "bf16", torch.float16: "fp16", None: False}
"""The value of ultralytics' `amp` argument for each choice."""


def choose(device: torch.device, request: str = "1") -> tuple[torch.dtype | None, str]:
    """The autocast dtype for training on `device`, or None for fp32, and the reason.

    Args:
        device: where the model trains.
        request: "1" best for the device, "0" fp32, or "bf16" or "fp16" (YOLOV12_AMP).

    Raises:
        UserError: a format was asked for by name that the device cannot compute with.
    """
    if device.type != "cuda":
        if request in {"bf16", "fp16"}:
            raise UserError(
                f"amp={request} needs a CUDA device and this run is on {device.type}; use amp=True or amp=False"
            )
        return None, "fp32 (16-bit formats are used on GPUs only)"
    name = torch.cuda.get_device_name(device)
    return choose_for_gpu(name, torch.cuda.get_device_capability(device), request)


def choose_for_gpu(name: str, capability: tuple[int, int], request: str) -> tuple[torch.dtype | None, str]:
    """`choose` for a GPU given by name and compute capability: a pure function, so that every card can be tested on any machine."""
    sm = f"sm_{capability[0]}{capability[1]}"
    has_bf16 = capability >= (8, 0)
    if request == "0":
        return None, "fp32 (asked for)"
    if request == "bf16":
        if not has_bf16:
            raise UserError(f"amp=bf16 needs compute capability 8.0 and {name} is {sm}; use amp=fp16")
        return torch.bfloat16, "bf16 (asked for; it needs no loss scaling)"
    if has_bf16 and request != "fp16":
        return torch.bfloat16, f"bf16 ({sm} computes in it natively and it needs no loss scaling)"
    if FAULTY_FP16.search(name):
        return None, f"fp32 (fp16 is known to give NaN on {name})"
    if request == "fp16":
        return torch.float16, "fp16 (asked for; the loss is scaled)"
    return torch.float16, f"fp16 ({sm} has no bf16; the loss is scaled)"
