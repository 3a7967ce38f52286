# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an exported yolo12n costs without our runtime: milliseconds of its ONNX file on the CPU, and bytes of the engine that comes of it.

Both sides export the same untrained network (benchmarks/lively.py); time and size do not depend on what it has learned, and it finds enough that
boxes can be compared. The engines are made by one function that knows nothing of this package, from the graph that each side's exporter makes for an
engine in float16: stock's has float32 in it and leaves precision to flags that TensorRT-RTX does not have.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import lively
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.record import DECLARED

WEIGHTS = "yolo12n.pt"
SAME_PX = 0.1
"""Boxes that differ by less are the same, rounded otherwise."""
ROUNDINGS = 4
"""So many times what the network in float32 differs from itself in float64 may be more than that: an untrained one magnifies roundings, as its
processor adds them up."""

ROWS = (
    Row(
        "ort_cpu_n",
        "ms",
        "lower",
        "one picture through ONNX Runtime's CPU provider, the exported float32 file, the fastest of all calls: whoever else uses the CPU only adds",
    ),
    Row("rtx_engine_size", "bytes", "lower", "the engine that TensorRT-RTX makes of the exported graph"),
)


def run_side(job: Job) -> Measured:
    """Export, and measure what the rows ask for."""
    from ultralytics import YOLO

    measured = Measured(declared=dict.fromkeys(DECLARED))
    model = YOLO(str(job.scratch / WEIGHTS))
    size, is_ours = job.parameters["imgsz"], job.side == "ours"
    # Compared here, for both sides; the gate would only take time.
    unverified = {"verify": False} if is_ours else {}
    if "ort_cpu_n" in job.rows:
        path = Path(model.export(format="onnx", imgsz=size, **unverified))
        fastest_ms, answer = _called(path, job.parameters)
        differs_px, rounding_px = _from_the_network(job.scratch / WEIGHTS, answer, size)
        if differs_px <= max(SAME_PX, ROUNDINGS * rounding_px):
            measured.values["ort_cpu_n"] = fastest_ms
            measured.notes["ort_cpu_n"] = f"boxes within {differs_px:.0e} px of the network's"
        else:
            measured.failed["ort_cpu_n"] = (
                f"its boxes are {differs_px:.2g} px from the network's, which rounds by {rounding_px:.2g} px"
            )
    if "rtx_engine_size" in job.rows:
        if importlib.util.find_spec("tensorrt_rtx") is None:
            measured.failed["rtx_engine_size"] = "TensorRT-RTX is not installed (its wheels are in env/versions.yaml)"
        else:
            path = Path(model.export(format="onnx", imgsz=size, **unverified, **({"half": True} if is_ours else {})))
            measured.values["rtx_engine_size"] = len(_engine(path, job.parameters["arch"]))
    return measured


def _called(path: Path, parameters: Mapping[str, Any]) -> tuple[float, Any]:
    """Milliseconds of the fastest call, after a tenth of them that is not counted, and the output (1, 4 + classes, anchors)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = parameters["threads"]
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    pixels = {entry.name: _picture(parameters["imgsz"])}
    times_ms = []
    for _ in range(parameters["calls"] + parameters["calls"] // 10 + 1):
        started_s = time.perf_counter()
        (answer,) = session.run(None, pixels)
        times_ms.append((time.perf_counter() - started_s) * 1000)
    return min(times_ms[-parameters["calls"] :]), answer


def _from_the_network(weights: Path, answer: Any, size: int) -> tuple[float, float]:
    """Largest difference in pixels of the boxes that the PyTorch network shows: of the answer from them, and of themselves in float64."""
    import numpy as np
    import torch
    from ultralytics import YOLO

    network, pixels = YOLO(str(weights)).model.eval(), torch.from_numpy(_picture(size))
    with torch.inference_mode():
        expected, exact = (network.to(kind)(pixels.to(kind))[0].numpy() for kind in (torch.float32, torch.float64))
    shown = expected[:, 4:].max(axis=1) >= lively.CONFIDENCE
    if not shown.any():
        raise RuntimeError("the network finds nothing on its picture, so no box can be compared")
    differs, rounding = (float(np.abs(other - expected)[:, :4].max(axis=1)[shown].max()) for other in (answer, exact))
    return differs, rounding


def _picture(size: int) -> Any:
    """(1, 3, size, size) float32 from 0 to 1: a coarse pattern, of the kind in which the network finds something."""
    import numpy as np

    return np.kron(
        np.random.default_rng(0).random((1, 3, 16, 16), np.float32), np.ones((1, 1, size // 16, size // 16), np.float32)
    )


def _engine(path: Path, arch: int) -> bytes:
    """A strongly typed engine for one GPU architecture, without layer names; RuntimeError if it can not be built."""
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.NONE
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{arch}"), 0)
    plan = builder.build_serialized_network(network, config) if parser.parse(path.read_bytes()) else None
    if plan is None:
        raise RuntimeError(f"TensorRT-RTX can not build an engine of {path.name}")
    return bytes(plan)


BENCHMARK = Benchmark(
    name="export",
    claim="an exported yolo12n is as fast as stock's in ONNX Runtime on the CPU, and its engine is at least 1.2 times smaller",
    rows=ROWS,
    needs="cpu",
    run_side=run_side,
    # Of the size that is exported: at another its batch norms are wrong, and it magnifies any rounding.
    prepare=lambda parameters, folder: lively.write("yolo12n.yaml", parameters["imgsz"], folder / WEIGHTS),
    parameters={"imgsz": 640, "threads": 2, "calls": 100, "arch": 89},
    timeout_s=600,
)
