# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stand-ins for what the tests' machine lacks: the driver's library with a GPU's memory, and TensorRT's lean bindings with an engine.

They have the names that the predictor uses and no others. `API` lists those of the bindings, which tests/image/test_deploy.py looks for in
the real ones.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest


class Driver:
    """libcuda.so.1 with one GPU; `fails` maps a function to the error that it gives."""

    def __init__(self, cuda: tuple[int, int] = (13, 0), arch: str = "90", **fails: int) -> None:
        self.cuda, self.arch, self.fails = cuda, arch, fails
        self.memory: dict[int, bytearray] = {}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in super().__getattribute__("fails"):
            return lambda *_: self.fails[name]
        return found

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.cuda[0] * 1000 + self.cuda[1] * 10
        return 0

    def cuInit(self, flags: Any) -> int:
        return 0

    def cuDeviceGet(self, device: Any, number: Any) -> int:
        device._obj.value = number.value
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        context._obj.value = 1
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        return 0

    def cuDeviceGetName(self, name: Any, length: Any, device: Any) -> int:
        name.value = b"A GPU"
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: Any, device: Any) -> int:
        value._obj.value = int({75: self.arch[:-1], 76: self.arch[-1]}[number.value])
        return 0

    def cuGetErrorString(self, code: Any, words: Any) -> int:
        words._obj.value = {2: b"out of memory", 100: b"no CUDA-capable device is detected"}.get(code.value)
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        address._obj.value = (len(self.memory) + 1) << 40  # more than 32 bits, as real ones are
        self.memory[address._obj.value] = bytearray(size.value)
        return 0

    def cuMemFree_v2(self, address: Any) -> int:
        del self.memory[address.value]
        return 0

    def cuMemcpyHtoD_v2(self, address: Any, host: Any, size: Any) -> int:
        self.memory[address.value][:] = ctypes.string_at(host.value, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, host: Any, address: Any, size: Any) -> int:
        ctypes.memmove(host.value, bytes(self.memory[address.value]), size.value)
        return 0


def plan(output: np.ndarray, *, takes: tuple[int, ...], most: int = 0, dtype: str = "float32") -> bytes:
    """What the stand-in takes for an engine: one input, and `output` whatever comes in. `most` is the largest open side."""
    kind = {"takes": takes, "most": most, "dtype": dtype, "output": output.tolist()}
    return b"plan" + json.dumps(kind).encode()


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, words: str) -> None:
        raise NotImplementedError


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, driver: Driver) -> None:
        self._engine, self._driver = engine, driver
        self._shape = engine.get_tensor_shape("images")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        kind, least = self._engine._kind, 32
        fits = all(fixed in (side, -1) for side, fixed in zip(shape, kind["takes"], strict=True))
        if fits and (-1 not in kind["takes"] or all(least <= side <= kind["most"] for side in shape[2:])):
            self._shape = shape
            return True
        return False

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape if name == "images" else self._engine.get_tensor_shape(name)

    def execute_v2(self, bindings: list[int]) -> bool:
        taken, given = (self._driver.memory[address] for address in bindings)
        dtype = self._engine.get_tensor_dtype("images")
        pixels = np.frombuffer(taken, dtype)
        if not (len(pixels) == np.prod(self._shape) and pixels.min() >= 0 and pixels.max() <= 1):
            return False
        given[:] = np.asarray(self._engine._kind["output"], dtype)[None].tobytes()
        return True


class ICudaEngine:
    def __init__(self, kind: dict[str, Any], driver: Driver) -> None:
        self._kind, self._driver = kind, driver

    num_io_tensors = 2

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self, self._driver)

    def get_tensor_name(self, number: int) -> str:
        return ("images", "output0")[number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._kind["takes"]) if name == "images" else (1, *np.shape(self._kind["output"]))

    def get_tensor_dtype(self, name: str) -> str:
        return self._kind["dtype"]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3, side, side) for side in (32, 64, self._kind["most"])]


class Runtime:
    engine_host_code_allowed = False
    driver: Driver

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized: bytes) -> ICudaEngine | None:
        if serialized.startswith(b"plan") and self.engine_host_code_allowed:
            return ICudaEngine(json.loads(serialized[4:]), self.driver)
        self._logger.log(ILogger.Severity.WARNING, "a warning")
        self._logger.log(ILogger.Severity.ERROR, "Error Code 1: Serialization (magic tag does not match)")
        return None


CLASSES = (TensorIOMode, ILogger, IExecutionContext, ICudaEngine, Runtime)
API = {
    kind.__name__: [name for name in vars(kind) if not name.startswith("_") and name != "driver"] for kind in CLASSES
}
"""Class -> the names that the predictor uses of it."""
FUNCTIONS = ("nptype", "__version__")


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Let the predictor find the stand-ins, for one test."""
    bindings = ModuleType("tensorrt_lean_bindings")
    vars(bindings).update({kind.__name__: kind for kind in CLASSES}, nptype=np.dtype, __version__="0.0")
    bindings.__spec__ = sys.__spec__  # without one, importlib.util.find_spec takes it for broken
    monkeypatch.setattr(Runtime, "driver", driver, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_lean_bindings", bindings)
    monkeypatch.delitem(sys.modules, "yolov12_deploy.lean_session", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
