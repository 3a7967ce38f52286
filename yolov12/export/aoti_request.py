# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an export to an AOTInductor package (`format=aoti`) is to make, decided from what was typed. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yolov12.errors import UserError
from yolov12.export.request import batch_of, exported_size, precision_of

NAMES = ("aoti", "aotinductor", "pt2")
"""What `format=` may be called."""

TAKEN = ("format", "imgsz", "batch", "half", "quantize", "device", "data", "verify", "verify_again", "verbose")
UNFIT = {
    "dynamic": "a package is compiled for one shape; leave dynamic out (fewer pictures than batch= are padded), or take format=engine",
    "nms": "a package holds the network alone, and predict suppresses after it; leave nms out, or take format=onnx",
    "int8": "a package computes in float32 or float16; take format=onnx or format=engine for int8",
}
"""Why an argument of other formats can not be."""


@dataclass(frozen=True)
class Asked:
    """A package, decided."""

    imgsz: tuple[int, int]
    """(height, width) in pixels."""
    batch: int
    precision: str
    """fp32 or fp16."""
    device: str | None
    """As the user typed it; None: the first GPU, else the CPU."""
    data: str | None
    """A data set whose mAP is compared."""
    verify: bool
    again: bool = False
    """Whether what was compared before is compared again."""


def is_asked(options: Mapping[str, Any]) -> bool:
    """Whether `format=` means a package."""
    return str(options.get("format")).lower() in NAMES


def of(options: Mapping[str, Any], trained_imgsz: Any) -> Asked:
    """The package that the arguments of `model.export(...)` ask for.

    Args:
        options: what was passed, nothing filled in.
        trained_imgsz: the size in pixels that is exported without `imgsz=`.

    Raises:
        UserError: an argument that a package can not follow, in one sentence.
    """
    for key, why in UNFIT.items():
        if options.get(key):
            raise UserError(f"{key}={options[key]} with format=aoti: {why}")
    if given := [key for key, value in options.items() if key not in (*TAKEN, *UNFIT) and value not in (None, False)]:
        raise UserError(f"{given[0]}={options[given[0]]} means nothing to format=aoti: leave it out")
    precision, _ = precision_of("aoti", options)
    if precision == "int8":
        raise UserError(f"quantize={options['quantize']} with format=aoti: {UNFIT['int8']}")
    device = options.get("device")
    return Asked(
        imgsz=exported_size(options.get("imgsz") or trained_imgsz),
        batch=batch_of(options),
        precision=precision,
        device=None if device in (None, "") else str(device),
        data=str(options["data"]) if options.get("data") else None,
        verify=options.get("verify") is not False,
        again=bool(options.get("verify_again")),
    )
