# SPDX-License-Identifier: AGPL-3.0-or-later
"""`format=aoti`: the network compiled by AOTInductor into one `.pt2` file, which torch loads in milliseconds and runs without a compiler.

`torch.export` traces the float32 or float16 network; attention is traced as torch's own `scaled_dot_product_attention` (model/attention/dispatch.py),
so that a package needs torch and nothing of ours. A package is native code for one GPU architecture, or for CPUs with the instructions of this one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.modules import Detect

from yolov12 import folders, settings
from yolov12.errors import RetryableError, UserError
from yolov12.export import aoti_file, aoti_key, aoti_request, aoti_toolkit, cache, request
from yolov12.export.adapter import as_exported, destination
from yolov12.export.aoti_file import Origin
from yolov12.export.aoti_request import Asked
from yolov12.export.request import Evaluate
from yolov12.log import program, say
from yolov12.wholefile import replacing

MODEL = "model"
"""The name that a package's only network has in it, which torch's loader looks for."""


def export(network: Any, options: Mapping[str, Any], evaluate: Evaluate | None) -> str:
    """Make a package beside the weights, compared with its source, and give its path: best_sm_90.pt2, or best_cpu.pt2.

    Args:
        network: the PyTorch network; it is copied.
        options: what the user passed.
        evaluate: measures mAP for the gate; asked only where `data=` was given.

    Raises:
        UserError: an argument that a package can not follow, no compiler, no such GPU, a folder that can not be written to.
        ParityError: the package differs from its source. Nothing is written then.
    """
    asked = aoti_request.of(options, (getattr(network, "args", None) or {}).get("imgsz", 640))
    device = device_of(asked)
    aoti_toolkit.require_compiler(device)
    here = aoti_file.origin_here(device)
    target = destination(network)
    target = target.with_name(f"{target.stem}_{here.arch}{aoti_file.SUFFIX}")
    folders.check_writable(target.parent, str(target))
    settings.trt_cache_dir()  # refused here, where nothing has been traced yet
    about = metadata(network, asked, here)
    by_source = aoti_key.of_source(network, about, here)
    content = built(network, asked, device, here, about, by_source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.export-", dir=target.parent) as folder:
        staged = Path(folder) / target.name
        with folders.named_where_full(target.parent):
            staged.write_bytes(content)
        for line in _verified(network, staged, asked, evaluate, by_source):
            say(line)
        with replacing(target) as part:
            shutil.copyfile(staged, part)
    say(f"export: {target} ({len(content) / 2**20:.1f} MiB); {program()} predict model={target}")
    return str(target)


def device_of(asked: Asked) -> torch.device:
    """What the package is compiled for: `device=`, else the first GPU, else the CPU.

    Raises:
        UserError: no such GPU, or several: a package is for one.
    """
    gpus = torch.cuda.device_count()
    text = (asked.device or ("0" if gpus else "cpu")).removeprefix("cuda:").replace("cuda", "0")
    if text != "cpu" and not (text.isdigit() and int(text) < gpus):
        raise UserError(
            f"device={asked.device}: a package is compiled on the one GPU that it is for, and torch sees {gpus} here; type device=cpu"
            + (f" or device=0 to {gpus - 1}" if gpus else "")
        )
    if text == "cpu" and asked.precision == "fp16":
        raise UserError("half=True is for GPUs: type half=False, or name a GPU with device=")
    return torch.device("cpu" if text == "cpu" else f"cuda:{text}")


def built(
    network: Any,
    asked: Asked,
    device: torch.device,
    here: Origin,
    about: Mapping[str, Any],
    by_source: cache.Key | None,
) -> bytes:
    """The package, from the cache where it was compiled before; there even the trace is not made again, if the network says enough of itself.

    Args:
        network: what is exported.
        asked: how.
        device: what it is compiled for.
        here: the same in words.
        about: see `metadata`.
        by_source: see aoti_key.of_source.

    Raises:
        UserError: the compiler failed, in its words.
    """
    folder = settings.trt_cache_dir()
    say(f"aoti: {asked.precision} at {'{1}x{0}'.format(*asked.imgsz)} for {here}")
    if by_source is not None and (content := cache.load_also(folder, by_source)) is not None:
        say(f"aoti: {len(content) / 2**20:.1f} MiB, from the cache in {folder}, without a trace")
        return content
    program_of_it = traced(network, asked, device)
    key = aoti_key.of_program(program_of_it, about, here)

    def build() -> bytes:
        with tempfile.TemporaryDirectory(prefix="yolov12-aoti-") as folder:
            path = Path(folder) / f"{MODEL}{aoti_file.SUFFIX}"
            say("aoti: compiling, which takes a minute or a few")
            with aoti_toolkit.cuda_in_reach(Path(folder)) if device.type == "cuda" else aoti_toolkit.no_gpu_meant():
                package(program_of_it, about, path)
            return path.read_bytes()

    content, source = cache.get_or_build(folder, key, build, what="package")
    if by_source is not None:
        cache.store_also(folder, by_source, key)
    say(f"aoti: {len(content) / 2**20:.1f} MiB, {source}")
    return content


class Packaged(nn.Module):
    """What is compiled: float32 pictures to float32 predictions, whatever is between.

    Args:
        network: with heads that give what is exported (adapter.as_exported).
        half: compute in float16 up to the last convolutions. What decodes boxes stays float32, as in half.py: from 512 pixels on a float16
            moves in steps of half a pixel.
    """

    def __init__(self, network: nn.Module, half: bool) -> None:
        super().__init__()
        self.network = network.half() if half else network
        self.half_inside = half
        for head in (module for module in network.modules() if half and isinstance(module, Detect)):
            head.dfl.float()
            decode = head._inference
            head._inference = lambda found, decode=decode: decode(_floats(found))

    def forward(self, pixels: Tensor) -> Any:
        """(batch, channels, height, width) from 0 to 1 -> what the network's head gives."""
        return _floats(self.network(pixels.half() if self.half_inside else pixels))


def traced(network: Any, asked: Asked, device: torch.device) -> Any:
    """The network as a torch.export.ExportedProgram for one shape, on `device`."""
    copied: Any = as_exported(network)
    fused = copied.fuse(verbose=False).to(device)
    module = Packaged(fused, asked.precision == "fp16").eval().requires_grad_(False)
    pixels = torch.zeros(asked.batch, int(network.yaml.get("channels", 3)), *asked.imgsz, device=device)
    with torch.no_grad():
        module(pixels)  # heads keep the anchors of this shape: constants from here on
        return torch.export.export(module, (pixels,), strict=False)


def package(exported: Any, about: Mapping[str, Any], path: Path) -> None:
    """Compile a program and write it with its metadata.

    Raises:
        UserError: the compiler failed.
        RetryableError: it had no room on the disk.
    """
    from torch._inductor import aot_compile
    from torch._inductor.exc import CppCompileError
    from torch.export.pt2_archive._package import package_pt2

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated classes
            files: Any = aot_compile(
                exported.module(check_guards=False), exported.example_inputs[0], options=aoti_toolkit.OPTIONS
            )
    except CppCompileError as error:
        said = next((line for line in str(error).splitlines() if "error:" in line), str(error).splitlines()[-1])
        if os.strerror(errno.ENOSPC) in str(error):
            raise RetryableError(
                f"no room to compile the package: {said.strip()}; make room and run the same command again"
            ) from error
        raise UserError(f"the package can not be compiled here: {said.strip()}") from error
    package_pt2(str(path), aoti_files={MODEL: files}, extra_files={aoti_file.METADATA: json.dumps(about)})


def metadata(network: Any, asked: Asked, here: Origin) -> dict[str, Any]:
    """What AutoBackend, predictors and validators read (engine/exporter.py:985), without the date: the same export is found in the cache."""
    return {
        "description": f"YOLO {network.task} model compiled by AOTInductor",
        "version": ultralytics_version,
        "license": "AGPL-3.0",
        "stride": int(max(network.stride)),
        "task": network.task,
        "batch": asked.batch,
        "imgsz": list(asked.imgsz),
        "names": dict(network.names),
        "args": {
            "batch": asked.batch,
            "dynamic": False,
            "nms": False,
            "quantize": 16 if asked.precision == "fp16" else None,
        },
        "channels": int(network.yaml.get("channels", 3)),
        "end2end": bool(getattr(network, "end2end", False)),
        **({"kpt_shape": list(network.kpt_shape)} if network.task == "pose" else {}),
        aoti_file.BUILT_BY: asdict(here) | {"precision": asked.precision},
    }


def _verified(
    network: Any, path: Path, asked: Asked, evaluate: Evaluate | None, by_source: cache.Key | None
) -> list[str]:
    if not asked.verify:
        return [f"parity: aoti {request.NOT_ASKED}"]
    from yolov12.export import gate, verdict

    case = gate.Case(network, path, "aoti", asked.precision, asked.imgsz, evaluate=evaluate if asked.data else None)
    source, gpu = (None, "") if by_source is None else (by_source["source"], by_source["gpu"])
    return verdict.lines(case, source, "" if gpu == "cpu" else gpu, asked.again)


def _floats(found: Any) -> Any:
    """The same tensors, lists and dictionaries in float32."""
    if isinstance(found, Tensor):
        return found.float()
    if isinstance(found, dict):
        return {key: _floats(value) for key, value in found.items()}
    return type(found)(map(_floats, found)) if isinstance(found, (list, tuple)) else found
