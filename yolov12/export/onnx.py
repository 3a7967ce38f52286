# SPDX-License-Identifier: AGPL-3.0-or-later
"""ONNX export as a function that is told where to write: `model.export(format="onnx")` (run.py) always writes beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from yolov12 import folders
from yolov12.errors import UserError
from yolov12.export.adapter import told_in_our_words, written_to
from yolov12.export.run import require_packages


class Exportable(Protocol):
    """What `export` asks of a model: `ultralytics.YOLO` has it, and so does ours."""

    model: Any
    """The torch module; its `pt_path` names the checkpoint that it came from."""

    def export(self, **arguments: Any) -> str:
        """Write the model in `format=` and return the path."""
        ...


def export(
    model: Exportable,
    out: str | Path | None = None,
    *,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    **arguments: Any,
) -> Path:
    """Export a PyTorch YOLO to one ONNX file and return its path.

    The file takes `images`, NCHW float32 RGB in 0..1, and for detection gives `output0` of shape (batch, 4 + classes,
    anchors): box centre x and y, width and height in pixels of the input, then one score per class. NMS is not in it
    unless `nms=True`.

    Args:
        model: a YOLO that holds a PyTorch model.
        out: the file to write, ending in `.onnx`; without it, the checkpoint's name with that suffix.
        imgsz: pixels, one number or (height, width); without it, the size that the model was trained with.
        batch: images per call that a fixed-shape file takes.
        dynamic: leave batch, height and width open.
        half: compute in float16 up to the last convolution (half.py); inputs and outputs stay float32.
        **arguments: any other export argument of ultralytics (`nms=`, `opset=`, `simplify=`, `device=`), and of ours (docs/export.md).

    Raises:
        UserError: a package is missing, `out` has another suffix, or its folder can not be written.
    """
    require_packages()
    if imgsz is not None:
        arguments["imgsz"] = imgsz
    if half:
        arguments["quantize"] = 16  # upstream's present name for it: half= works there too, with a warning
    arguments |= {"format": "onnx", "batch": batch, "dynamic": dynamic}
    if out is None:
        return Path(model.export(**arguments))
    out = Path(out)
    if out.suffix != ".onnx":
        raise UserError(f"out={out} does not end in .onnx. Type: out={out.with_suffix('.onnx')}")
    folders.check_writable(out.parent, f"out={out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_to(model.model, out), told_in_our_words():
        return Path(model.export(**arguments))
