# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which backend serves a case, and why: a table read from the top, as pure functions.

What the table knows was measured with head_dim 32 and areas of 400 tokens, as every YOLOv12 has them at 640 pixels: on
sm_90 (benchmarks/records, `attention`), and on a CPU. Where nothing was measured, the reason says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from yolov12.errors import UserError
from yolov12.model.attention.backends import BACKENDS, DTYPE_NAMES, HALVES, Case, why_not

WhyNot = Callable[[str, Case], str | None]

LARGE_ROWS = 400_000
"""Query rows (images * areas * tokens of an area * heads) from which on cuDNN's backward leads on sm_90: at 409,600 it takes 14 % less time
than sdpa-flash and 8 % less than flash-attn (record `attention`, fp16, yolov12s at batch 64, p4). Below, calls are bound by their launch,
and it would not earn back the time that it takes to prepare a plan for each new shape."""

BF16 = (torch.bfloat16,)
FP32 = (torch.float32,)
SM_90 = ((9, 0), (9, 0))
FROM_SM_80 = ((8, 0), (99, 0))
BELOW_SM_80 = ((0, 0), (7, 9))


class Choice(NamedTuple):
    """A backend's name, and the reason for it in words that can be printed."""

    backend: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One line of the table: `backend` serves the cases that match, if it can run."""

    backend: str
    reason: str
    device_type: str = "cuda"
    capabilities: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (99, 0))
    """First and last CUDA compute capability."""
    dtypes: tuple[torch.dtype, ...] = HALVES
    training: bool | None = None
    """None: both directions."""
    large: bool | None = None
    """None: any size."""

    def matches(self, case: Case) -> bool:
        """Whether the row speaks about this case; whether its backend can run is another question."""
        first, last = self.capabilities
        return (
            case.device_type == self.device_type
            and case.dtype in self.dtypes
            and self.training in (None, case.training)
            and self.large in (None, case.large)
            and (case.capability is None or first <= case.capability <= last)
        )


TABLE = (
    Row(
        "flash-attn",
        "level with the fastest measured kernel on {device} for large batches, and prepares nothing per image shape",
        capabilities=SM_90,
        training=False,
    ),
    Row(
        "sdpa-flash",
        "close to the fastest measured kernel on {device}, and prepares nothing per image shape",
        capabilities=SM_90,
        training=False,
    ),
    Row(
        "sdpa-cudnn",
        "fastest measured kernel on {device} for training with large batches",
        capabilities=SM_90,
        training=True,
        large=True,
    ),
    Row(
        "sdpa-flash",
        "calls of this size are bound by their launch on {device}, where no kernel leads; this one prepares nothing per image shape",
        capabilities=SM_90,
        training=True,
    ),
    Row("flash-attn", "installed, and made for these heads; not measured on {device}", capabilities=FROM_SM_80),
    Row("sdpa-flash", "not measured on {device}; the flash kernel that torch brings for it", capabilities=FROM_SM_80),
    Row("sdpa-efficient", "no flash kernel runs below sm_80; not measured on {device}", capabilities=BELOW_SM_80),
    Row("sdpa-efficient", "the only fused kernel for fp32; not measured in fp32", dtypes=FP32),
    Row(
        "plain",
        "upstream's arithmetic; the fused backward was slower in bf16 where it was measured",
        "cpu",
        dtypes=BF16,
        training=True,
    ),
    Row(
        "sdpa-cpu",
        "torch's fused kernel for CPUs, faster than upstream's arithmetic where it was measured",
        "cpu",
        dtypes=tuple(DTYPE_NAMES),
    ),
)


def choose(case: Case, request: str = "1", why_not: WhyNot = why_not) -> Choice:
    """The backend for `case` under YOLOV12_FLASH_ATTN=`request`, and why.

    Raises `UserError` when a backend was asked for by name that can not serve the case. On the CPU of a machine with a
    GPU a request for a GPU backend is none: the model is only being built there.
    """
    if request == "0":
        return Choice("plain", "YOLOV12_FLASH_ATTN=0")
    if request == "1":
        return _from_table(case, why_not)
    if case.beside_gpu and BACKENDS[request].device_type == "cuda":
        best = _from_table(case, why_not)
        return Choice(best.backend, f"{best.reason}; {request} is for the GPU")
    if reason := why_not(request, case):
        can = ", ".join(name for name in BACKENDS if why_not(name, case) is None)
        raise UserError(
            f"YOLOV12_FLASH_ATTN={request}: {request} can not serve ({case}): it {_told(reason)}. "
            f"These can: {can}. YOLOV12_FLASH_ATTN=1 takes the best of them."
        )
    return Choice(request, f"YOLOV12_FLASH_ATTN={request}" + _repeatability(request, case))


def _told(reason: str) -> str:
    """A reason as the rest of a sentence that begins with `it`."""
    return f"is {reason}" if reason.startswith(("not ", "installed")) else reason


def validated(request: str) -> str:
    """`request` if it is 1, 0 or a backend's name; `UserError` with the nearest name otherwise."""
    if request in ("1", "0", *BACKENDS):
        return request
    near = difflib.get_close_matches(request, BACKENDS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"YOLOV12_FLASH_ATTN={request} is unknown.{hint} "
        f"Use 1 (the best for the device), 0 (plain) or one of: {', '.join(BACKENDS)}."
    )


def _from_table(case: Case, why_not: WhyNot) -> Choice:
    passed_over: dict[str, str] = {}
    for row in TABLE:
        if not row.matches(case):
            continue
        if reason := why_not(row.backend, case):
            passed_over[row.backend] = reason
            continue
        words = row.reason.format(device=case.device)
        return Choice(row.backend, words + _repeatability(row.backend, case) + _listed(passed_over))
    return Choice("plain", f"no fused kernel serves {case.dtype_name} on {case.device}{_listed(passed_over)}")


def _repeatability(name: str, case: Case) -> str:
    """What to know when deterministic training was asked for as ultralytics asks: warn, but go on."""
    if case.training and case.deterministic == "warn" and "warn" not in BACKENDS[name].repeatable:
        return "; its gradients can differ in the last bits from run to run, with YOLOV12_FLASH_ATTN=0 they do not"
    return ""


def _listed(passed_over: dict[str, str]) -> str:
    return f" ({'; '.join(f'{name}: {reason}' for name, reason in passed_over.items())})" if passed_over else ""


def as_markdown() -> str:
    """The table as docs/attention.md shows it; `python -m yolov12.model.attention.choose` prints it."""
    lines = ["| device | dtype | direction | backend | reason |", "|---|---|---|---|---|"]
    for row in TABLE:
        dtypes = ", ".join(DTYPE_NAMES[dtype] for dtype in row.dtypes)
        direction = {None: "both", True: "training", False: "inference"}[row.training] + (
            ", large" if row.large else ""
        )
        reason = row.reason.format(device="sm_90" if row.capabilities == SM_90 else "the device")
        lines.append(f"| {_devices(row)} | {dtypes} | {direction} | `{row.backend}` | {reason} |")
    return "\n".join(lines)


def _devices(row: Row) -> str:
    names = {SM_90: "sm_90", FROM_SM_80: "other GPUs from sm_80", BELOW_SM_80: "GPUs below sm_80"}
    return "CPU" if row.device_type == "cpu" else names.get(row.capabilities, "any GPU")


if __name__ == "__main__":
    print(as_markdown())
