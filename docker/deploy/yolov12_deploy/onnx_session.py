# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model in an ONNX file, with ONNX Runtime: on the GPU where it is the build for CUDA and there is one that it has code for."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from yolov12 import pins
from yolov12_deploy import gpu
from yolov12_deploy.errors import UsageError

BROKEN = onnxruntime.capi.onnxruntime_pybind11_state
"""Has ONNX Runtime's exceptions."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
VALUES = ("names", "imgsz", "end2end", "args")
"""Metadata that is no text, which an ONNX file has as Python writes it (ultralytics/utils/export/onnx.py)."""


class OnnxSession:
    """See session.Session."""

    def __init__(self, model: Path, threads: int = 0, device: str = "auto") -> None:
        """Load `model`; UsageError if it is no ONNX model that takes pictures."""
        provider, reason = choose_provider(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings are about nodes that are better off on the CPU
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=list(dict.fromkeys([provider, CPU])))
        except (BROKEN.InvalidProtobuf, BROKEN.InvalidGraph, BROKEN.Fail) as error:
            raise UsageError(f"model={model} is not an ONNX model that can be loaded: {error}") from error
        if provider not in self.session.get_providers():
            provider, reason = CPU, f"{reason}, but ONNX Runtime could not start there and said why above"
        self.place = f"on the {'GPU' if provider == CUDA else 'CPU'}: {reason}"
        self.metadata = values(self.session.get_modelmeta().custom_metadata_map)
        taken = self.session.get_inputs()[0]
        if taken.type not in DTYPES or len(taken.shape) != 4:
            raise UsageError(
                f"model={model} takes {taken.type} of {len(taken.shape)} dimensions, not a batch of pictures"
            )
        self.input_name = taken.name
        self.dtype = np.dtype(DTYPES[taken.type])
        self.shape = tuple(size if isinstance(size, int) else None for size in taken.shape)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """See session.Session. UsageError where ONNX Runtime fails: an open size that the model can not take, or no memory."""
        try:
            return self.session.run(None, {self.input_name: pixels})[0]
        except (BROKEN.Fail, BROKEN.InvalidArgument, BROKEN.RuntimeException) as error:
            size = "x".join(map(str, pixels.shape[2:]))
            advice = "; type a multiple of 32" if any(side % 32 for side in pixels.shape[2:]) else ""
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"ONNX Runtime could not run the model at imgsz={size} ({self.place}){advice}: {said}"
            ) from error


def choose_provider(device: str) -> tuple[str, str]:
    """The provider to ask for, and why that one."""
    if CUDA not in onnxruntime.get_available_providers():
        return CPU, "this ONNX Runtime has no other"
    if device == "cpu":
        return CPU, "device=cpu"
    found, reason = gpu.find()
    if found is None:
        return CPU, reason
    if not has_code_for(found.arch, pins.ONNXRUNTIME_GPU_CODE):
        known = " ".join(f"sm_{code}" for code in pins.ONNXRUNTIME_GPU_CODE)
        return CPU, f"{reason} is there, and ONNX Runtime has code for {known} only"
    return CUDA, reason


def has_code_for(arch: str, codes: tuple[str, ...]) -> bool:
    """Whether a GPU of `arch` ("86") runs one of `codes`: its own ("86", "90a"), or that of an earlier one of its major version."""
    plain = [code for code in codes if code.isdigit()]
    return f"{arch}a" in codes or any(code[:-1] == arch[:-1] and code[-1] <= arch[-1] for code in plain)


def values(known: dict[str, str]) -> dict[str, Any]:
    """Metadata with what is no text as values."""
    return known | {key: ast.literal_eval(known[key]) for key in VALUES if key in known}
