# SPDX-License-Identifier: AGPL-3.0-or-later
"""What runs a model: the one thing that ONNX Runtime and TensorRT's lean runtime have to offer here, and which of them takes a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from yolov12_deploy.errors import UsageError, not_there

DEVICES = ("auto", "cpu")
LEAN_RUNTIME = "tensorrt_lean_bindings"


class Session(Protocol):
    """A loaded model."""

    metadata: dict[str, Any]
    """What the exporter wrote into the file: task, names, imgsz, end2end, args. Empty for a file of someone else's."""
    shape: tuple[int | None, ...]
    """Of the input: batch, 3, height, width; None where it is open."""
    dtype: np.dtype
    """Of the input."""
    place: str
    """Where it runs, and why there."""

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """The first output for one input of `shape` and `dtype`."""
        ...


def open_session(model: Path, threads: int = 0, device: str = "auto") -> Session:
    """Load a model with what its suffix asks for: `.engine` with TensorRT's lean runtime, anything else with ONNX Runtime.

    Args:
        model: the file.
        threads: of the CPU; 0 takes all cores.
        device: `auto` is the GPU if the image's runtime and the machine have one; or `cpu`.

    Raises:
        UsageError: there is no such file, it can not be loaded, or it can not run here.
    """
    if not model.is_file():
        raise not_there(f"model={model}: there is no such file")
    if device not in DEVICES:
        raise UsageError(f"device={device}: type device=auto or device=cpu (docker run --gpus chooses the GPU)")
    if model.suffix != ".engine":
        from yolov12_deploy.onnx_session import OnnxSession

        return OnnxSession(model, threads, device)
    if importlib.util.find_spec(LEAN_RUNTIME) is None:
        raise UsageError(
            f"model={model} needs TensorRT's lean runtime: take the image yolov12:deploy, or name an ONNX file"
        )
    if device == "cpu":
        raise UsageError(f"model={model} runs on a GPU only: leave device=cpu out, or name an ONNX file")
    from yolov12_deploy.lean_session import LeanSession

    return LeanSession(model)
