# SPDX-License-Identifier: AGPL-3.0-or-later
"""A stand-in for the modules `tensorrt` and `tensorrt_rtx`, with the names that builder.py uses and no others.

`API` lists them by class. The names were looked for in the bindings of TensorRT 10.16.1.11 and 11.4.0.106 (as strings: they do not import without
the libraries) and are looked for in TensorRT-RTX wherever that is installed.
"""

from __future__ import annotations

import enum
from types import ModuleType, SimpleNamespace
from typing import Any

API = {
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"),
    "INetworkDefinition": ("get_input", "num_layers"),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "IBuilderConfig": (
        "profiling_verbosity",
        "set_memory_pool_limit",
        "set_flag",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    ),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "BuilderFlag": ("VERSION_COMPATIBLE",),
    "MemoryPoolType": ("WORKSPACE", "TACTIC_DRAM"),
    "ProfilingVerbosity": ("NONE",),
    "ILogger": ("log", "Severity"),
}
RTX_API = {
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
    "ComputeCapability": ("SM75", "SM120"),
}

PLUGIN_API = {"": ("init_libnvinfer_plugins", "get_plugin_registry"), "IPluginRegistry": ("get_creator",)}
"""What TensorRT proper has for plugins, and TensorRT-RTX has not; "" for the module's own."""

REMOVED_IN_11 = set(
    "FP16 BF16 INT8 FP8 FP4 INT4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REJECT_EMPTY_ALGORITHMS WEIGHTLESS EXPLICIT_BATCH "
    "IInt8Calibrator CalibrationAlgoType QuantizationFlag IAlgorithm IAlgorithmSelector int8_calibrator calibration_profile algorithm_selector "
    "precision set_output_type dynamic_range platform_has_fast_fp16 platform_has_fast_int8 platform_has_fast_tf32 supports_model "
    "parse_with_weight_descriptors get_plugin_creator plugin_creator_list".split()
)
"""Names that the bindings of 10.16 have and those of 11.4 have not."""


class TensorRT(ModuleType):
    """One installation. `fails` has what each of the first builds complains of; `said` has every call that matters."""

    def __init__(
        self, name: str = "tensorrt", version: str = "11.4.0", fails: tuple[str, ...] = (), plan: bytes = b"plan"
    ) -> None:
        super().__init__(name)
        self.__version__ = version
        self.fails, self.plan = list(fails), plan
        self.plugins: tuple[str, ...] = ("EfficientNMS_TRT",)
        self.calls: list[tuple[Any, ...]] = []
        self.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
        self.BuilderFlag = enum.IntEnum("BuilderFlag", {"VERSION_COMPATIBLE": 0})
        self.MemoryPoolType = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0, "TACTIC_DRAM": 4})
        self.ProfilingVerbosity = enum.IntEnum("ProfilingVerbosity", {"NONE": 1})
        self.ILogger = type(
            "ILogger", (), {"Severity": enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING", start=0)}
        )
        if name == "tensorrt_rtx":
            self.ComputeCapability = type("ComputeCapability", (), {"SM75": 75, "SM89": 89})

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        self.calls.append(("plugins", namespace))
        return True

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(
            get_creator=lambda name, version, namespace: (name, version) if name in self.plugins else None
        )

    def Builder(self, logger: Any) -> Any:
        return _Builder(self, logger)

    class Runtime:
        """For what is looked at before an engine is loaded; none is (`yolov12_deploy`'s stand-in loads some)."""

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        errors = [] if self.plan else ["Failed to parse"]
        return SimpleNamespace(
            parse=lambda graph: self.calls.append(("parse", graph)) or not errors,
            num_errors=len(errors),
            get_error=lambda index: SimpleNamespace(desc=lambda: errors[index]),
        )


class _Builder:
    def __init__(self, trt: TensorRT, logger: Any) -> None:
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int) -> Any:
        self.trt.calls.append(("network", flags))
        return SimpleNamespace(get_input=lambda index: SimpleNamespace(name="images"), num_layers=7)

    def create_builder_config(self) -> Any:
        return _Config(self.trt)

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda *shapes: self.trt.calls.append(("shape", *shapes)))

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        if self.trt.fails:
            self.logger.log(self.trt.ILogger.Severity.WARNING, "a warning")
            self.logger.log(self.trt.ILogger.Severity.ERROR, self.trt.fails.pop(0))
            return None
        return self.trt.plan


class _Config:
    profiling_verbosity: Any = None
    num_compute_capabilities: int = 0

    def __init__(self, trt: TensorRT) -> None:
        self.trt = trt

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.trt.calls.append((pool.name.lower(), size))

    def set_flag(self, flag: Any) -> None:
        self.trt.calls.append(("flag", flag.name))

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.trt.calls.append(("for", capability))
        return True

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, content: bytes, ignore_mismatch: bool) -> bool:
        self.trt.calls.append(("timing", content, ignore_mismatch))
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"measured")
