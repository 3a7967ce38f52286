# SPDX-License-Identifier: AGPL-3.0-or-later
"""An engine from an ONNX graph: one builder for TensorRT 10 and 11 and for TensorRT-RTX, whose Python modules differ in little.

The network is strongly typed: precision is what the graph says (half.py, calibrate.py), since TensorRT 11 and TensorRT-RTX have no flags for it.
Which module builds is the caller's choice, so that tests run this code on TensorRT-RTX, which needs no GPU to build, and on a stand-in.
TensorRT proper could not be installed where this was written: its calls were compared with the names in its bindings, and not run.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from yolov12.errors import UserError
from yolov12.log import say
from yolov12.sigterm import held

MODULES = ("tensorrt", "tensorrt_rtx")
"""In the order in which they are taken: an engine of the first runs in ultralytics, in trtexec and on data-centre GPUs."""
LEAST_MAJOR = 10
"""Before, networks had an implicit batch or needed a flag against it."""
LEAST_WORKSPACE_BYTES = 64 * 2**20
"""Where to give up asking for less. Convolutions of these models need some MiB."""
MARGIN_BYTES = 512 * 2**20
"""Of free GPU memory, what the builder takes besides its workspace: weights, code, the context of CUDA."""
NO_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|cudaErrorMemoryAllocation|CUDA error 2\b", re.IGNORECASE)
NO_WORKSPACE = re.compile(r"within workspace limit", re.IGNORECASE)
REQUESTED = re.compile(r"Requested size was (\d+)")
"""Said with "OutOfMemory", be it the GPU's memory or the workspace that is too small for it."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """The shapes (batch, channels, height, width) that a dynamic engine takes, and the one that it is tuned for."""

    least: Shape
    tuned: Shape
    most: Shape


@dataclass(frozen=True)
class Order:
    """What to build."""

    graph: bytes
    """A serialized ONNX model."""
    profile: Profile | None
    """For a graph with open sizes."""
    workspace_bytes: int | None = None
    """None: the builder's own limit, all that the GPU has."""
    tactic_bytes: int | None = None
    """What a tactic may take while it is timed, its input, weights and output besides its workspace. None: three quarters of the whole GPU."""
    version_compatible: bool = False
    archs: tuple[str, ...] = ()
    """For TensorRT-RTX, as "86"."""
    timing: bytes = b""
    """What an earlier build measured; empty for none."""


@dataclass(frozen=True)
class Built:
    """An engine."""

    plan: bytes
    timing: bytes
    """For the next build; empty where the builder keeps none."""
    layers: int


@dataclass(frozen=True)
class Maker:
    """Who builds, and for what: an engine runs nowhere else."""

    module: str
    version: str
    gpu: str
    """As "sm_90 NVIDIA H100"; without a GPU the architectures that are built for."""
    driver: str
    """NVIDIA's own version, as "580.95.05"; "" without a GPU."""
    cuda: str
    """Version of CUDA that the driver speaks, as "13.0"; "" without a GPU."""


def find_module() -> str:
    """The Python module that builds engines here, "" if there is none; it is not imported."""
    return next((name for name in MODULES if importlib.util.find_spec(name)), "")


def arch_here() -> str:
    """The architecture of the GPU that torch uses, as "90"."""
    return "".join(map(str, torch.cuda.get_device_capability()))


def gpu_here() -> str:
    """The GPU that torch uses, as an engine's header names it."""
    return f"sm_{arch_here()} {torch.cuda.get_device_name()}"


def is_rtx(trt: Any) -> bool:
    """Whether a module is TensorRT-RTX's."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def check(trt: Any, archs: tuple[str, ...], version_compatible: bool) -> None:
    """Refuse what this builder can not make, before anything is begun.

    Raises:
        UserError: the version is too old, or it takes the other kind of TensorRT.
    """
    if not is_rtx(trt):
        if archs:
            raise UserError("arch= is for TensorRT-RTX: TensorRT builds for the GPU that it runs on; leave arch= out")
        if int(str(trt.__version__).partition(".")[0]) < LEAST_MAJOR:
            raise UserError(f"TensorRT {trt.__version__} is too old: engines are built here with {LEAST_MAJOR} or 11")
        return
    if version_compatible:
        raise UserError(
            "version_compatible=True needs TensorRT proper, and TensorRT-RTX is what builds here (its engines are compiled on their GPU "
            "when they are loaded): leave it out, or build an image with TENSORRT=10"
        )
    known = [name.removeprefix("SM") for name in vars(trt.ComputeCapability) if name.startswith("SM")]
    if wrong := [arch for arch in archs if arch not in known]:
        raise UserError(
            f"arch={wrong[0]}: TensorRT-RTX {trt.__version__} builds for {', '.join(known)}; for other GPUs take TensorRT proper"
        )


def load_plugins(trt: Any) -> None:
    """Register the plugins that come with TensorRT, for graphs and engines that name one. May be called again."""
    trt.init_libnvinfer_plugins(_kept_logger(trt), "")


def has_plugin(trt: Any, name: str, version: str) -> bool:
    """Whether TensorRT comes with a plugin."""
    load_plugins(trt)
    return trt.get_plugin_registry().get_creator(name, version, "") is not None


@functools.cache
def _kept_logger(trt: Any) -> Any:
    """The library of plugins remembers the logger, and would not keep it alive."""
    return _logger(trt)


def workspace_bytes(asked_gib: float | None, free_bytes: int | None) -> tuple[int | None, str]:
    """How much memory a tactic may use, and why.

    Args:
        asked_gib: what the user allows.
        free_bytes: of the GPU, now; None without one.
    """
    asked = None if asked_gib is None else int(asked_gib * 2**30)
    if free_bytes is None:
        return asked, "as asked" if asked else "no GPU here whose memory could run out"
    available = max(free_bytes - MARGIN_BYTES, LEAST_WORKSPACE_BYTES)
    if asked is not None and asked <= available:
        return asked, "as asked"
    return available, f"what is free less {MARGIN_BYTES / 2**30:.1f} GiB"


def tactic_bytes(free_bytes: int | None) -> int | None:
    """How much a tactic may take while it is timed: what is free now, where the builder's own limit goes by the whole GPU, be it in use or not.

    One that takes more is passed over. It is not lowered with the workspace, whatever failed: the outputs of a large batch must have room.

    Args:
        free_bytes: as for `workspace_bytes`.
    """
    return None if free_bytes is None else max(free_bytes - MARGIN_BYTES, LEAST_WORKSPACE_BYTES)


def build(trt: Any, order: Order) -> Built:
    """Build; where memory runs out again with half of the workspace, until it is `LEAST_WORKSPACE_BYTES`, each time with a line.

    Args:
        trt: the module `tensorrt` (10 or 11) or `tensorrt_rtx`.
        order: what to build.

    Raises:
        UserError: TensorRT can not read the graph, can not build it, or has no memory for it, in its words.
    """
    check(trt, order.archs, order.version_compatible)
    limit = order.workspace_bytes
    while True:
        complaints = _logger(trt)
        with held(trt.__name__):  # it drops what a signal raises in the logger, and would go on
            built = _attempt(trt, order, limit, complaints)
        if built is not None:
            return built
        words = " ".join(complaints.said)
        is_memory = NO_MEMORY.search(words) and not _is_workspace_too_small(words, limit)
        if not is_memory or limit is None or limit // 2 < LEAST_WORKSPACE_BYTES:
            raise _failed(words, limit)
        say(f"engine: no memory with a workspace of {limit / 2**20:.0f} MiB -> {limit / 2**21:.0f} MiB")
        limit //= 2


def _attempt(trt: Any, order: Order, limit: int | None, logger: Any) -> Built | None:
    """One build; None if it failed, and then the logger knows why."""
    builder = trt.Builder(logger)
    if not builder:
        raise UserError(
            f"{trt.__name__} {trt.__version__} can not start here: {' '.join(logger.said) or 'no reason given'}"
        )
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(order.graph):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise UserError(f"{trt.__name__} {trt.__version__} can not read the ONNX graph: {'; '.join(errors)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = (
        trt.ProfilingVerbosity.NONE
    )  # names of layers make the file larger, and nothing here reads them
    if limit is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if order.tactic_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, order.tactic_bytes)
    if order.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if order.archs:
        config.num_compute_capabilities = len(order.archs)
        for index, arch in enumerate(order.archs):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{arch}"), index)
    if order.profile is not None:
        profile = builder.create_optimization_profile()
        name = network.get_input(0).name
        profile.set_shape(name, order.profile.least, order.profile.tuned, order.profile.most)
        config.add_optimization_profile(profile)
    keeps_timing = not is_rtx(trt)  # its timing caches are no-ops since 1.2
    if keeps_timing:
        # False: what another GPU or version measured is refused, and the build begins with an empty cache.
        config.set_timing_cache(config.create_timing_cache(order.timing), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None
    timing = bytes(config.get_timing_cache().serialize()) if keeps_timing else b""
    return Built(bytes(plan), timing, network.num_layers)


def _is_workspace_too_small(words: str, limit: int | None) -> bool:
    """Whether it is the limit that stands in the way, and not what the GPU has."""
    requested = [int(size) for size in REQUESTED.findall(words)]
    return bool(NO_WORKSPACE.search(words)) or (limit is not None and max(requested, default=0) > limit)


def _failed(words: str, limit: int | None) -> UserError:
    if _is_workspace_too_small(words, limit):
        return UserError(
            f"the engine can not be built within a workspace of {(limit or 0) / 2**20:.0f} MiB: give more with workspace=GIB, or leave it out"
        )
    if NO_MEMORY.search(words):
        return UserError(
            "the engine can not be built: the GPU has no memory left; end what else runs on it, or lower batch= or max_imgsz="
        )
    return UserError(f"the engine can not be built: {words or 'TensorRT does not say why'}")


def _logger(trt: Any) -> Any:
    """Keeps errors, for the sentence that the user gets, instead of printing them. TensorRT takes subclasses of its own class only."""

    class Complaints(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, words: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.said.append(words.strip())

    return Complaints()


def lines_about(order: Order, workspace: tuple[int | None, str], maker: Maker) -> Iterator[str]:
    """What will be built, for people."""
    yield f"engine: {maker.module} {maker.version} for {maker.gpu}"
    if order.profile is not None:
        least, tuned, most = ("x".join(map(str, shape)) for shape in vars(order.profile).values())
        yield f"engine: takes {least} to {most}, tuned for {tuned} (min_imgsz=, max_imgsz= and batch= change it)"
    limit, reason = workspace
    if limit is not None:
        yield f"engine: workspace {limit / 2**30:.1f} GiB ({reason})"
