# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an export to ONNX or an engine is to make, decided from what was typed before anything is built. Imports nothing heavy.

Other formats are ultralytics' business (`of` gives None for them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov12 import pins
from yolov12.errors import UserError

ENGINE = ("engine", "tensorrt", "trt")
"""What `format=` calls a TensorRT engine (engine/exporter.py:624)."""

TENSORRT_RTX = f"tensorrt-rtx-cu13=={pins.PACKAGES['tensorrt-rtx-cu13-libs']}"
"""What brings the module `tensorrt_rtx` with its libraries, which are of its version (env/compatibility.py)."""

Evaluate = Callable[[Path | None, tuple[int, int]], float]
"""A file, or None for the source, and (height, width) in pixels -> its mAP50-95 in percent on the data set that the user named, at that size."""

COMPARED = "onnx, engine, aoti, and torchscript on the CPU"
"""Formats that go through the gate."""

OPSET, OPSET_REASON = 18, "ONNX Runtime's CUDA provider has no kernel for the Resize of opset 19"
INT8_ENGINE_OPSET = 19
LEAST_OPSET, LARGEST_OPSET = 11, 20
"""Below, Resize has no scales; above, torch's exporter knows none (torch/onnx/_constants.py of 2.11)."""
LEAST_OPSETS = {"int8": 13}
"""Where a precision needs more: scales per channel."""

STRIDE = 32
"""Of every YOLO that has an engine here: sides are multiples of it."""

OWN_KEYS = {
    "verify": True,
    "verify_again": False,
    "raw": False,
    "version_compatible": False,
    "arch": None,
    "min_imgsz": None,
    "max_imgsz": None,
}
"""Arguments that ultralytics' export does not know, with their defaults."""
ENGINE_KEYS = ("raw", "version_compatible", "arch", "min_imgsz", "max_imgsz", "workspace")

NOTES = (
    "model=   required",
    "format=  default onnx; also torchscript, engine, aoti, openvino, ...",
    "data=    a data set: calibrates quantize=8, and compares the mAP of model and export",
    "verify=  False (or --no-verify) does not compare the export with the model",
    "         verify_again=True (or --verify-again) compares also what was compared before",
    "engine:  raw=True writes the plan alone; min_imgsz=, max_imgsz= and batch= say which shapes it takes; version_compatible=True;",
    "         arch=86 says for which GPUs TensorRT-RTX builds (docs/export.md)",
)
"""What `yolov12 export --help` says of these."""

NOT_ASKED = "is not compared by the export itself (verify=False)"
"""Said of a format. The demo, for one, compares afterwards."""

PRECISIONS = {32: "fp32", 16: "fp16", 8: "int8"}
_QUANTIZE = {"8": 8, "16": 16, "32": 32, "int8": 8, "fp16": 16, "fp32": 32, "w8a8": 8, "w16a16": 16, "w32a32": 32}
"""cfg/__init__.py:185, without w8a16 and w8a32, which neither format takes."""


@dataclass(frozen=True)
class Suppression:
    """Of boxes inside the exported file, for `nms=True`."""

    conf: float = 0.25
    """Least score (engine/exporter.py:822)."""
    iou: float = 0.7
    """Overlap from which the worse of two boxes goes (cfg/default.yaml)."""
    max_det: int = 300
    agnostic: bool = False
    """Whether boxes of different classes suppress each other."""


@dataclass(frozen=True)
class Request:
    """An export, decided."""

    form: str
    """onnx or engine."""
    precision: str
    """fp32, fp16 or int8."""
    opset: int
    dynamic: bool
    batch: int
    """Pictures for each call; the most of them where `dynamic`."""
    data: str | None
    """A data set: calibrates int8, and adds a comparison of mAP."""
    verify: bool
    nms: Suppression | None
    raw: bool
    """The engine as a plain plan, without ultralytics' header."""
    version_compatible: bool
    archs: tuple[str, ...]
    """GPU architectures, as "86", for TensorRT-RTX; empty: whatever the builder takes by itself."""
    min_imgsz: tuple[int, int] | None
    max_imgsz: tuple[int, int] | None
    """(height, width) in pixels that a dynamic engine takes at least and at most; None: `STRIDE` and the size that is exported."""
    workspace_gib: float | None
    reasons: tuple[str, ...]
    """A line for each choice that the user did not make."""
    stock: Mapping[str, Any]
    """What ultralytics' exporter is called with to make the float32 ONNX file."""
    again: bool = False
    """Whether what was compared before is compared again."""


def of(options: Mapping[str, Any], trained_imgsz: Any = None) -> Request | None:
    """The export that the arguments of `model.export(...)` ask for; None for a format that is ultralytics' alone.

    Args:
        options: what was passed, nothing filled in.
        trained_imgsz: the size in pixels that is exported without `imgsz=`; None where it is not known yet.

    Raises:
        UserError: a combination that can not be made, in one sentence.
    """
    form = str(options.get("format") or "torchscript").lower()  # cfg/default.yaml's
    form = "engine" if form in ENGINE else form
    _refuse_keys_of_others(form, options)
    _refuse_no_switches(options)
    if form not in ("onnx", "engine"):
        return None
    reasons = []
    precision, reason = precision_of(form, options)
    reasons += [reason] if reason else []
    dynamic, reason = _dynamic(form, options)
    reasons += [reason] if reason else []
    opset, reason = _opset(form, precision, options)
    reasons += [reason] if reason else []
    if precision == "int8" and not options.get("data"):
        raise UserError("int8 is calibrated on your pictures: type data=my.yaml (data=synth is the bundled set)")
    smallest, largest = _sides(options, dynamic, trained_imgsz)
    return Request(
        form=form,
        precision=precision,
        opset=opset,
        dynamic=dynamic,
        batch=batch_of(options),
        data=str(options["data"]) if options.get("data") else None,
        verify=options.get("verify") is not False,
        again=bool(options.get("verify_again")),
        nms=suppression_of(options) if options.get("nms") else None,
        raw=bool(options.get("raw")),
        version_compatible=bool(options.get("version_compatible")),
        archs=_archs(options.get("arch")),
        min_imgsz=smallest,
        max_imgsz=largest,
        workspace_gib=_workspace(options),
        reasons=tuple(reasons),
        stock=_stock(options, dynamic, opset),
    )


def _refuse_keys_of_others(form: str, options: Mapping[str, Any]) -> None:
    given = [key for key in ENGINE_KEYS if options.get(key) not in (None, False)]
    if form != "engine" and given:
        raise UserError(f"{given[0]}={options[given[0]]} is for format=engine, not format={form}: leave it out")


def _refuse_no_switches(options: Mapping[str, Any]) -> None:
    for key in ("verify", "verify_again", "raw", "version_compatible"):
        if not isinstance(options.get(key, False), (bool, type(None))):
            raise UserError(f"{key}={options[key]}: type True or False")
    if options.get("verify") is False and options.get("verify_again"):
        raise UserError("verify=False and verify_again=True contradict each other: leave one of them out")


def precision_of(form: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """fp32, fp16 or int8, and why where the user did not say.

    Raises:
        UserError: arguments that contradict each other.
    """
    asked = {16 for _ in "." if options.get("half")} | {8 for _ in "." if options.get("int8")}
    if options.get("quantize") is not None:
        known = _QUANTIZE.get(str(options["quantize"]).lower())
        if known is None:
            raise UserError(f"quantize={options['quantize']}: for format={form} type quantize=8, 16 or 32")
        asked |= {known}
    if len(asked) > 1:
        words = " and ".join(f"{key}={options[key]}" for key in ("half", "int8", "quantize") if options.get(key))
        raise UserError(f"{words} contradict each other: type one of quantize=8, 16 or 32")
    if asked:
        return PRECISIONS[asked.pop()], ""
    if form == "engine" and options.get("half") is None:
        return "fp16", "half=True (the default of format=engine; half=False for float32)"
    return "fp32", ""


def _dynamic(form: str, options: Mapping[str, Any]) -> tuple[bool, str]:
    if options.get("dynamic") is None and form == "engine":
        return True, "dynamic=True (the default of format=engine; dynamic=False for one fixed shape)"
    return bool(options.get("dynamic")), ""


def _opset(form: str, precision: str, options: Mapping[str, Any]) -> tuple[int, str]:
    least = LEAST_OPSETS.get(precision, LEAST_OPSET)
    if form == "engine" and precision == "int8":
        least = INT8_ENGINE_OPSET  # what is not int8 is float16, and so are the scales
    asked = options.get("opset")
    if asked is None:
        if least > OPSET:
            return least, f"opset={least} (the first with float16 scales)"
        return OPSET, f"opset={OPSET} ({OPSET_REASON})"
    if not isinstance(asked, int) or not least <= asked <= LARGEST_OPSET:
        raise UserError(
            f"opset={asked}: an export in {precision} needs {least} to {LARGEST_OPSET}; leave it out for {OPSET}"
        )
    return asked, ""


def batch_of(options: Mapping[str, Any]) -> int:
    """Pictures for each call.

    Raises:
        UserError: not a whole number from 1.
    """
    batch = options.get("batch", 1)
    if isinstance(batch, bool) or not isinstance(batch, (int, float)) or batch < 1 or batch != int(batch):
        raise UserError(f"batch={batch}: an export needs a whole number of pictures from 1, for example batch=1")
    return int(batch)


def suppression_of(options: Mapping[str, Any]) -> Suppression:
    """What `nms=True` puts into a file."""
    # As numbers of their kind: `conf=0` is typed as a whole one, and a graph's attributes have types.
    typed = {
        "conf": ("conf", float),
        "iou": ("iou", float),
        "max_det": ("max_det", int),
        "agnostic": ("agnostic_nms", bool),
    }
    given = {name: kind(options[key]) for name, (key, kind) in typed.items() if options.get(key) is not None}
    return Suppression(**given)


def _workspace(options: Mapping[str, Any]) -> float | None:
    gib = options.get("workspace")
    if gib is not None and not gib > 0:
        raise UserError(f"workspace={gib}: type GiB above 0, or leave it out for what is free")
    return None if gib is None else float(gib)


def _archs(arch: Any) -> tuple[str, ...]:
    """`arch=86`, `arch=8.6`, `arch=sm_86` or several of these."""
    if arch is None:
        return ()
    several = arch if isinstance(arch, (list, tuple)) else str(arch).split(",")
    found = [
        str(one).lower().strip(" '\"[]()").removeprefix("sm_").removeprefix("sm").replace(".", "") for one in several
    ]
    if wrong := [one for one in found if not (one.isdigit() and len(one) in (2, 3))]:
        raise UserError(f"arch={arch}: {wrong[0]!r} is no GPU architecture; type for example arch=86 or arch=75,89")
    return tuple(dict.fromkeys(found))


def _sides(
    options: Mapping[str, Any], dynamic: bool, trained_imgsz: Any
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """The smallest and the largest (height, width) of a dynamic engine, where they were given."""
    found: list[tuple[int, int] | None] = []
    for key in ("min_imgsz", "max_imgsz"):
        value = options.get(key)
        if value is None:
            found.append(None)
            continue
        if not dynamic:
            raise UserError(f"{key}={value} needs an open input size: type dynamic=True, or leave it out")
        sides = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(sides) not in (1, 2) or any(
            not isinstance(side, int) or side < STRIDE or side % STRIDE for side in sides
        ):
            raise UserError(f"{key}={value}: type pixels that {STRIDE} divides, for example {key}={STRIDE * 10}")
        found.append(as_pair(value))
    smallest, largest = found
    exported = exported_size(options.get("imgsz") or trained_imgsz or 0)
    for index in range(2 if any(exported) else 0):
        if (smallest and smallest[index] > exported[index]) or (largest and largest[index] < exported[index]):
            least, most = as_text(smallest or (STRIDE, STRIDE)), as_text(largest or exported)
            raise UserError(
                f"imgsz={as_text(exported)} is not between min_imgsz={least} and max_imgsz={most}: change one of them"
            )
    return smallest, largest


def exported_size(imgsz: Any) -> tuple[int, int]:
    """(height, width) that is exported for `imgsz=`: multiples of the stride, as ultralytics rounds them up (utils/checks.py:279)."""
    height, width = (-(-side // STRIDE) * STRIDE for side in as_pair(imgsz))
    return height, width


def as_text(sides: tuple[int, int]) -> str:
    """As a size is typed: "640", or "480,640"."""
    return ",".join(map(str, dict.fromkeys(sides)))


def as_pair(imgsz: Any) -> tuple[int, int]:
    """(height, width) of `imgsz=`, which is one number or both."""
    sides = list(imgsz) if isinstance(imgsz, (list, tuple)) else [imgsz]
    return int(sides[0]), int(sides[-1])


def _stock(options: Mapping[str, Any], dynamic: bool, opset: int) -> dict[str, Any]:
    """The precision, the data set and what only we know are left out: the graph is made in float32 and changed afterwards."""
    ours = (*OWN_KEYS, "half", "int8", "quantize", "data", "workspace", "fraction", "split")
    kept = {key: value for key, value in options.items() if key not in ours}
    return kept | {"format": "onnx", "dynamic": dynamic, "opset": opset}
