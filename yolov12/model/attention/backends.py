# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each attention kernel needs, and why one can not serve a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov12.model.attention import flash_package, kernels

HALVES = (torch.float16, torch.bfloat16)
DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """All that the choice of a backend depends on."""

    device_type: str
    capability: tuple[int, int] | None
    """CUDA compute capability, for example (9, 0); None on other devices."""
    dtype: torch.dtype
    training: bool
    """Whether a backward pass can follow, whatever mode the module is in."""
    head_dim: int = 32
    deterministic: str = "off"
    """off | warn | strict, as `torch.use_deterministic_algorithms(mode, warn_only=...)` left it."""
    beside_gpu: bool = False
    """On the CPU of a machine with a GPU: there ultralytics builds and measures models before they move."""
    large: bool = False
    """Whether there is so much to attend that a kernel which prepares a plan for each shape can win (`choose.LARGE_ROWS`)."""

    @property
    def device(self) -> str:
        """`sm_90`, `cpu`, ...: the device as reasons name it."""
        return _sm(self.capability) if self.capability else self.device_type

    @property
    def dtype_name(self) -> str:
        """`fp16`, `bf16`, `fp32`, ..."""
        return DTYPE_NAMES.get(self.dtype, str(self.dtype))

    def __str__(self) -> str:
        size = ", large" if self.large else ""
        return f"{self.device}, {self.dtype_name}, {'training' if self.training else 'inference'}{size}"


@dataclass(frozen=True)
class Backend:
    """A kernel and what it needs to run."""

    run: Kernel
    device_type: str = "cuda"
    min_capability: tuple[int, int] = (8, 0)
    dtypes: tuple[torch.dtype, ...] = HALVES
    max_head_dim: int = 256
    """Fused GPU kernels take head dimensions that are multiples of 8, up to this one."""
    repeatable: tuple[str, ...] = ("strict",)
    """The deterministic modes (see `Case`) in which its gradients are bit-equal from run to run."""


BACKENDS = {
    "plain": Backend(kernels.plain, device_type="any", repeatable=("warn", "strict")),
    "flash-attn": Backend(kernels.flash_attn, repeatable=("warn", "strict")),
    "sdpa-flash": Backend(kernels.sdpa_flash),
    "sdpa-cudnn": Backend(kernels.sdpa_cudnn, max_head_dim=128, repeatable=()),
    "sdpa-efficient": Backend(kernels.sdpa_efficient, min_capability=(5, 0), dtypes=(*HALVES, torch.float32)),
    "sdpa-cpu": Backend(kernels.sdpa_cpu, device_type="cpu", dtypes=tuple(DTYPE_NAMES), repeatable=("warn", "strict")),
}


def why_not(name: str, case: Case) -> str | None:
    """Why backend `name` can not serve `case`, in words for the user; None if nothing is known against it."""
    backend = BACKENDS[name]
    if backend.device_type == "any":
        return None
    if case.device_type != backend.device_type:
        return f"runs on {backend.device_type} devices only"
    if case.dtype not in backend.dtypes:
        return f"takes {' or '.join(DTYPE_NAMES[dtype] for dtype in backend.dtypes)}, not {case.dtype_name}"
    return _why_not_on_gpu(name, backend, case) if case.capability else None


def _why_not_on_gpu(name: str, backend: Backend, case: Case) -> str | None:
    needed = (8, 0) if case.dtype == torch.bfloat16 else backend.min_capability
    if case.capability is not None and case.capability < needed:
        return f"needs {_sm(needed)} or newer for {case.dtype_name}"
    if case.head_dim % 8 or case.head_dim > backend.max_head_dim:
        return f"takes head_dim 8, 16, ... {backend.max_head_dim}, not {case.head_dim}"
    if case.training and case.deterministic == "strict" and "strict" not in backend.repeatable:
        return "has no deterministic backward, which torch.use_deterministic_algorithms(True) asks for"
    return flash_package.why_not(case.head_dim, case.capability) if name == "flash-attn" else None


def _sm(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"
