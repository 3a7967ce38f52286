# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an exported yolo12n costs without our runtime: milliseconds of its ONNX file on the CPU, and bytes of the engine that comes of it.

Both sides export the same untrained network; time and size do not depend on what it has learned. The engines are made by one function that knows
nothing of this package, from the graph that each side's exporter makes for an engine in float16: stock's has float32 in it and leaves precision to
flags that TensorRT-RTX does not have.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from statistics import median

from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.record import DECLARED

ROWS = (
    Row(
        "ort_cpu_n",
        "ms",
        "lower",
        "one picture through ONNX Runtime's CPU provider, the exported float32 file, median of all calls",
    ),
    Row("rtx_engine_size", "bytes", "lower", "the engine that TensorRT-RTX makes of the exported graph"),
)


def run_side(job: Job) -> Measured:
    """Export, and measure what the rows ask for."""
    import onnx
    import onnxruntime
    import torch
    from ultralytics import YOLO

    measured = Measured(
        declared=dict.fromkeys(DECLARED), versions={"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
    )
    torch.manual_seed(0)
    model = YOLO("yolo12n.yaml")
    model.model.pt_path = str(job.scratch / "yolo12n.pt")
    size, is_ours = job.parameters["imgsz"], job.side == "ours"
    # Compared by the gate elsewhere; here it would only take time.
    unverified = {"verify": False} if is_ours else {}
    if "ort_cpu_n" in job.rows:
        path = Path(model.export(format="onnx", imgsz=size, **unverified))
        measured.values["ort_cpu_n"] = _median_ms(path, job.parameters["threads"], job.parameters["calls"])
    if "rtx_engine_size" in job.rows:
        if importlib.util.find_spec("tensorrt_rtx") is None:
            measured.failed["rtx_engine_size"] = "TensorRT-RTX is not installed (its wheels are in env/versions.yaml)"
        else:
            path = Path(model.export(format="onnx", imgsz=size, **unverified, **({"half": True} if is_ours else {})))
            measured.values["rtx_engine_size"] = len(_engine(path, job.parameters["arch"]))
    return measured


def _median_ms(path: Path, threads: int, calls: int) -> float:
    """Of so many calls, after a tenth of them that is not counted."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    picture = {entry.name: np.random.default_rng(0).random(entry.shape, np.float32)}
    times_ms = []
    for _ in range(calls + calls // 10 + 1):
        started_s = time.perf_counter()
        session.run(None, picture)
        times_ms.append((time.perf_counter() - started_s) * 1000)
    return median(times_ms[-calls:])


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
    parameters={"imgsz": 640, "threads": 2, "calls": 50, "arch": 89},
    timeout_s=600,
)
