# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was exported already, and can not be exported again: said in one sentence, with what to type. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from yolov12.errors import UserError
from yolov12.export.request import ENGINE
from yolov12.log import program

WEIGHTS = (".pt", ".yaml", ".yml")
KINDS = {
    ".engine": "a TensorRT engine",
    ".onnx": "an ONNX file",
    ".pt2": "a package of AOTInductor",
    ".torchscript": "a TorchScript file",
}
"""By suffix; what else exporters write is a folder, or of other formats of ultralytics."""
_MADE_FOR = re.compile(r"(_int8)?(_cpu|_sm_\d+|_[^\W_]+_model)?$")
"""What exporters put behind the name of the weights."""


def refuse(model: str | Path, form: str | None) -> None:
    """Refuse a model of which no export in `form` can be made, as it was exported before. Of an ONNX file an engine can be.

    Args:
        model: as it was typed; one that is not there is told by who looks for it.
        form: `format=`, if it was typed.

    Raises:
        UserError: says what it is, and the command that exports its weights.
    """
    path = Path(model)
    form = str(form or "onnx").lower()
    suffix = path.suffix.lower()
    if suffix in WEIGHTS or not path.exists() or (suffix == ".onnx" and form in ENGINE):
        return
    if suffix not in KINDS and not path.is_dir():
        raise UserError(f"model={model} is no network that can be exported: name a .pt or .yaml file")
    what = KINDS.get(suffix, "a folder")
    weights = path.with_name(_MADE_FOR.sub("", path.stem) + ".pt")
    graph = path.with_suffix(".onnx")
    advice = [
        _command(weights, form) if weights.is_file() else f"name the .pt file that it was made from (model={weights})"
    ]
    if suffix == ".onnx":
        advice.append("type format=engine")
    elif form in ENGINE and graph.is_file() and not weights.is_file():
        advice = [_command(graph, form)]
    is_one = f"is {what}, exported already" if suffix in KINDS else f"is {what}, and no weights"
    raise UserError(f"model={model} {is_one}: {', or '.join(advice)}")


def _command(source: Path, form: str) -> str:
    return f"type {program()} export model={source} format={form}"
