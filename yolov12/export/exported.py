# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was exported already, and can not be exported again or trained: said in one sentence, with what to type. Imports nothing heavy."""

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
    weights, graph = _weights_of(path), path.with_suffix(".onnx")
    advice = [_command(weights, form) if weights.is_file() else _name_them(weights)]
    if suffix == ".onnx":
        advice.append("type format=engine")
    elif form in ENGINE and graph.is_file() and not weights.is_file():
        advice = [_command(graph, form)]
    raise UserError(f"model={model} {_what_it_is(path)}: {', or '.join(advice)}")


def refuse_training(model: str | Path) -> None:
    """Refuse to train what was exported.

    Args:
        model: as for `refuse`.

    Raises:
        UserError: says what it is, and what to type.
    """
    path = Path(model)
    if not path.is_dir() and not (path.suffix.lower() in KINDS and path.exists()):
        return
    weights = _weights_of(path)
    advice = f"type model={weights}" if weights.is_file() else _name_them(weights)
    raise UserError(f"model={model} {_what_it_is(path)}, and can not be trained: {advice}")


def _what_it_is(path: Path) -> str:
    what = KINDS.get(path.suffix.lower())
    return f"is {what}, exported already" if what else "is a folder, and no weights"


def _weights_of(path: Path) -> Path:
    return path.with_name(_MADE_FOR.sub("", path.stem) + ".pt")


def _name_them(weights: Path) -> str:
    return f"name the .pt file that it was made from (model={weights})"


def _command(source: Path, form: str) -> str:
    return f"type {program()} export model={source} format={form}"
