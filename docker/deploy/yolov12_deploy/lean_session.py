# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model in a TensorRT engine, with TensorRT's lean runtime: it runs engines that were built to be version-compatible, and builds none.

No such engine could be made where this was written. The calls follow TensorRT's documentation of IExecutionContext, and
ultralytics/nn/backends/tensorrt.py; the tests run them on a stand-in whose names are compared with the real bindings.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import tensorrt_lean_bindings as trt

from yolov12_deploy import engine_file, gpu
from yolov12_deploy.errors import UsageError

TRUST = "YOLOV12_TRUST_WEIGHTS"


class Complaints(trt.ILogger):
    """Keeps what TensorRT says of errors, which it otherwise only prints, for the sentence that the user gets."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def log(self, severity: trt.ILogger.Severity, words: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.said.append(words)


class LeanSession:
    """See session.Session."""

    def __init__(self, model: Path) -> None:
        """Load `model`; UsageError if it is not trusted, there is no GPU, or TensorRT can not load it."""
        check_trust(model)
        # Without a driver the runtime is made all the same, and the process dies of a segmentation fault when it is used (11.4).
        found, reason = gpu.find()
        if found is None:
            raise UsageError(f"model={model} runs on a GPU only, and {reason}; without one, name an ONNX file")
        self.gpu = found
        self.place = f"on the GPU: {reason}"
        self.metadata, plan = engine_file.split(model.read_bytes())
        self.complaints = Complaints()  # must live as long as the runtime
        self.runtime = trt.Runtime(self.complaints)
        # A version-compatible plan may carry the runtime that it was built with, which is native code. The user trusts it, see above.
        self.runtime.engine_host_code_allowed = True
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        self.context = self.engine and self.engine.create_execution_context()
        if not self.context:
            raise UsageError(
                f"model={model} can not be loaded by TensorRT's lean runtime {trt.__version__}: {self._words()}. It takes engines for "
                f"this very GPU: type trtexec --versionCompatible --onnx=best.onnx --saveEngine={model.name}, or name an ONNX file"
            )
        self.names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        inputs = [name for name in self.names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in self.names if name not in inputs]
        if len(inputs) != 1 or not self.outputs or len(self.engine.get_tensor_shape(inputs[0])) != 4:
            raise UsageError(f"model={model} takes {', '.join(inputs) or 'nothing'}, not a batch of pictures")
        self.input = inputs[0]
        self.dtype = self._dtype(self.input)
        self.shape = tuple(size if size >= 0 else None for size in self.engine.get_tensor_shape(self.input))
        self.buffers: dict[str, int] = {}
        self.buffers_for: tuple[int, ...] = ()

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """See session.Session. UsageError if an open size is not one that the engine was built for, GpuError if memory runs out."""
        self._prepare(pixels.shape)
        self.gpu.upload(np.ascontiguousarray(pixels), self.buffers[self.input])
        if not self.context.execute_v2([self.buffers[name] for name in self.names]):
            raise UsageError(f"TensorRT could not run the engine: {self._words()}")
        output = np.empty(self._shape(self.outputs[0]), self._dtype(self.outputs[0]))
        self.gpu.download(self.buffers[self.outputs[0]], output)
        return output

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Tell TensorRT the input's shape, and have memory for all that goes in and comes out."""
        if shape == self.buffers_for:
            return
        if not self.context.set_input_shape(self.input, shape):
            least, _, most = self.engine.get_tensor_profile_shape(self.input, 0)
            raise UsageError(f"imgsz: the engine takes {_sides(least)} to {_sides(most)} pixels, not {_sides(shape)}")
        while self.buffers:
            self.gpu.free(self.buffers.popitem()[1])
        self.buffers = {name: self.gpu.allocate(self._bytes(name)) for name in self.names}
        self.buffers_for = shape

    def _bytes(self, name: str) -> int:
        return math.prod(self._shape(name)) * self._dtype(name).itemsize

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self.context.get_tensor_shape(name))
        if min(shape) < 0:
            raise UsageError(
                f"the size of the engine's output {name} depends on the picture: export it without nms=True"
            )
        return shape

    def _dtype(self, name: str) -> np.dtype:
        return np.dtype(trt.nptype(self.engine.get_tensor_dtype(name)))

    def _words(self) -> str:
        return self.complaints.said[-1].strip() if self.complaints.said else "it does not say why"


def check_trust(model: Path) -> None:
    """UsageError unless the user trusts what is native code."""
    trust = os.environ.get(TRUST, "0")
    if trust not in ("0", "1"):
        raise UsageError(f"{TRUST}={trust}: type 0 or 1")
    if trust == "0":
        raise UsageError(
            f"model={model}: an engine is native code. If you trust its author, type docker run -e {TRUST}=1"
        )


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, tuple(shape)[2:]))
