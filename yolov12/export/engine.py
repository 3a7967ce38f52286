# SPDX-License-Identifier: AGPL-3.0-or-later
"""From an ONNX file to an engine on disk: for which GPU, with how much memory, and not twice (cache.py)."""

from __future__ import annotations

import ast
import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch

from yolov12 import settings
from yolov12.errors import UserError
from yolov12.export import builder, cache, efficient_nms, engine_file, machine
from yolov12.export.builder import Maker, Order, Profile
from yolov12.export.request import STRIDE, TENSORRT_RTX, Request, Suppression
from yolov12.log import say

RTX_ARCHS = ("80", "86", "89", "120")
"""What TensorRT-RTX builds for where there is no GPU: from Ampere on, in one file; arch=75 is for Turing, whose code makes it larger."""
TURING = "75"

VALUES = ("stride", "batch", "imgsz", "names", "args", "channels", "end2end", "kpt_shape", "kpt_names")
"""Metadata that is no text; an ONNX file has it as Python writes it (engine/exporter.py:1207)."""


def module() -> Any:
    """TensorRT, or TensorRT-RTX where that is what is installed.

    Raises:
        UserError: neither is.
    """
    if not (name := builder.find_module()):
        raise UserError(
            "format=engine needs TensorRT or TensorRT-RTX, and neither is installed here; export format=onnx, build an image with TENSORRT=rtx, "
            f"or outside of one type pip install {TENSORRT_RTX}"
        )
    return importlib.import_module(name)


def check(trt: Any, request: Request) -> tuple[str, ...]:
    """The architectures to build for, empty for TensorRT proper; refuses what can not be built here.

    Raises:
        UserError: no GPU for TensorRT proper, a GPU that TensorRT-RTX does not know or whose code it lacks for the precision, or a folder for
            engines that can not be written to.
    """
    settings.trt_cache_dir()
    builder.check(trt, request.archs, request.version_compatible)
    has_gpu = torch.cuda.is_available()
    if not builder.is_rtx(trt):
        if not has_gpu:
            raise UserError(
                "TensorRT builds for the GPU that it runs on, and torch sees none here: export format=onnx here and the engine there "
                "(in a container: docker run --gpus all)"
            )
        return ()
    archs = request.archs or ((builder.arch_here(),) if has_gpu else RTX_ARCHS)
    builder.check(trt, archs, request.version_compatible)
    if TURING in archs and request.precision == "fp32":  # as 1.7.1 says in the middle of the build
        raise UserError(f"TensorRT-RTX has no float32 for sm_{TURING}: leave half=False out, or arch={TURING}")
    return archs


def make(path: Path, request: Request, trt: Any, by_plugin: Suppression | None = None) -> tuple[bytes, dict[str, Any]]:
    """The plan for an ONNX file, from the cache where it was built before, and the metadata of its header.

    Args:
        path: what ultralytics' exporter wrote; its metadata says size and batch.
        request: the export.
        trt: the module, see `module`.
        by_plugin: what TensorRT's plugin is to suppress in the engine, and the file does not.

    Raises:
        UserError: it can not be built.
    """
    archs = check(trt, request)
    model = onnx.load(path)
    metadata = metadata_of(model)
    if by_plugin is not None:
        model = efficient_nms.appended(model, by_plugin)
        builder.load_plugins(trt)
        metadata["args"] = {**metadata["args"], "nms": True}
    profile = profile_of(model, metadata, request)
    maker = _maker(trt, archs)
    free_bytes = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    workspace = builder.workspace_bytes(request.workspace_gib, free_bytes)
    del model.metadata_props[:]  # has the date
    graph = model.SerializeToString()
    folder = settings.trt_cache_dir()
    key = _key(graph, profile, maker, request, archs)

    def build() -> bytes:
        measured_by = {part: key[part] for part in ("builder", "driver", "cuda", "gpu")}
        timing = cache.timing_file(folder, measured_by)
        order = Order(
            graph=graph,
            profile=profile,
            workspace_bytes=workspace[0],
            tactic_bytes=builder.tactic_bytes(free_bytes),
            version_compatible=request.version_compatible,
            archs=archs,
            timing=timing.read_bytes() if timing.is_file() else b"",
        )
        for line in builder.lines_about(order, workspace, maker):
            say(line)
        torch.cuda.empty_cache()  # the builder needs it more; nothing without a GPU
        built = builder.build(trt, order)
        if built.timing:
            cache.keep_timings(timing, built.timing)
        return built.plan

    plan, source = cache.get_or_build(folder, key, build)
    say(f"engine: {len(plan) / 2**20:.1f} MiB, {source}")
    own = {"precision": request.precision, "version_compatible": request.version_compatible}
    return plan, metadata | {engine_file.BUILT_BY: asdict(maker) | own}


def profile_of(model: onnx.ModelProto, metadata: Mapping[str, Any], request: Request) -> Profile | None:
    """The shapes that a dynamic engine takes: up to what is exported for, and not twice its sides as upstream has it
    (utils/export/engine.py:352), which plans memory for four times the pixels. None for fixed shapes."""
    if all(side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim):
        return None
    channels, batch = int(metadata.get("channels", 3)), request.batch
    height, width = metadata["imgsz"]
    least = request.min_imgsz or (STRIDE, STRIDE)
    most = request.max_imgsz or (height, width)
    return Profile(
        least=(1, channels, *least),
        tuned=(batch, channels, height, width),
        most=(batch, channels, *most),
    )


def metadata_of(model: onnx.ModelProto) -> dict[str, Any]:
    """What the exporter wrote into an ONNX file, with values where they are no text."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    return texts | {key: ast.literal_eval(texts[key]) for key in VALUES if key in texts}


def _key(graph: bytes, profile: Profile | None, maker: Maker, request: Request, archs: tuple[str, ...]) -> cache.Key:
    """All that an engine depends on. The driver is part of it: TensorRT chooses kernels by how fast they run here, which is the driver's doing
    too. (TensorRT-RTX builds without running anything; there another driver is no more than a miss.) CUDA's version stands beside it, see machine.py.
    An entry with a key of an older form is never asked for, and goes when it was used longest ago.
    """
    return {
        "model": hashlib.sha256(graph).hexdigest(),
        "precision": request.precision,
        "profile": str(profile),
        "builder": f"{maker.module} {maker.version}",
        "driver": maker.driver,
        "cuda": maker.cuda,
        "gpu": maker.gpu,
        "archs": ",".join(archs),
        "version compatible": str(request.version_compatible),
        "workspace": str(request.workspace_gib),
    }


def _maker(trt: Any, archs: tuple[str, ...]) -> Maker:
    name, version = str(trt.__name__), str(trt.__version__)
    gpu = builder.gpu_here() if torch.cuda.is_available() else " ".join(f"sm_{arch}" for arch in archs)
    return Maker(name, version, gpu, machine.driver_version(), machine.cuda_version())
