# SPDX-License-Identifier: AGPL-3.0-or-later
"""The count of a model's operations that its summary gives: ultralytics', taken on the CPU, and once for each structure.

It depends on shapes alone. On a GPU its tiny pictures would prepare kernels for nothing; on a CPU they cost each start 0.12 s, and a count that was
kept 0.01 (log count_operations).
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
import ultralytics
import ultralytics.utils.torch_utils as upstream
from torch import nn
from ultralytics.nn.tasks import BaseModel

from yolov12 import __version__, settings
from yolov12.errors import ExitError
from yolov12.log import warn
from yolov12.seams import Seam
from yolov12.wholefile import replacing

SEAMS = (
    Seam("utils/torch_utils.py", 632, "ultralytics.utils.torch_utils.get_flops", "280ec9fb768c"),
    Seam("utils/torch_utils.py", 544, "ultralytics.utils.torch_utils.model_info", "88f47c930e96"),
)

PINNED = {"torch", "ultralytics", "yolov12"}
"""Packages whose layers a version tells apart. A class of the user's may change under its name."""
PLAIN = (int, float, bool, str, type(None))

_own = upstream.get_flops


def install() -> None:
    """Let ultralytics' summaries take the count from here. May be called again."""
    upstream.get_flops = known


def known(model: nn.Module, imgsz: Any = 640) -> float:
    """The GFLOPs that ultralytics' `get_flops` counts, from the cache if a model of these layers was counted before.

    Args:
        model: a detection model, or any other, which is counted each time.
        imgsz: pixels of a side, or (height, width).
    """
    structure = _structure(upstream.unwrap_model(model))
    if structure is None or (folder := _folder()) is None:
        return on_cpu(model, imgsz)
    key = json.dumps([structure, imgsz, _versions()])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    found = _read(path)
    if found is None:
        found = on_cpu(model, imgsz)
        if found:  # 0 says that it could not be counted
            _keep(path, found)
    return found


def on_cpu(model: nn.Module, imgsz: Any = 640) -> float:
    """The GFLOPs that ultralytics' `get_flops` counts, from a copy without the weights' values."""
    bare = upstream.unwrap_model(model)
    if not isinstance(bare, BaseModel) or next(bare.parameters()).device.type == "cpu":
        return _own(model, imgsz)
    memo: dict[int, object] = {}
    for parameter in bare.parameters():
        memo[id(parameter)] = nn.Parameter(torch.zeros_like(parameter, device="cpu"), parameter.requires_grad)
    for buffer in bare.buffers():
        memo[id(buffer)] = torch.zeros_like(buffer, device="cpu")
    # What is left are the anchors of the head, which are no buffers.
    return _own(copy.deepcopy(bare, memo).cpu(), imgsz)


def _structure(bare: nn.Module) -> list[Any] | None:
    """All that the count depends on but the pictures' size: of each layer its class, what it was made with and its tensors' shapes.

    None where a version does not tell what a layer does: of other models than ultralytics', with a class, a hook or a method of somebody else's.
    """
    if not isinstance(bare, BaseModel):
        return None
    layers: list[Any] = []
    for name, layer in bare.named_modules():
        kind = type(layer)
        if kind.__module__.partition(".")[0] not in PINNED or layer._forward_hooks or layer._forward_pre_hooks:
            return None
        made_with = {}
        for attribute, value in vars(layer).items():
            if attribute in {"training", "total_ops", "total_params"}:  # the counter sets them itself
                continue
            if _is_plain(value):
                made_with[attribute] = repr(value)
            elif callable(value):  # as Conv's `forward` after it was fused
                if str(getattr(value, "__module__", None)).partition(".")[0] not in PINNED:
                    return None
                made_with[attribute] = getattr(value, "__qualname__", type(value).__qualname__)
        shapes = [list(tensor.shape) for tensor in layer.parameters(recurse=False)]
        layers.append([name, f"{kind.__module__}.{kind.__qualname__}", made_with, shapes])
    return layers


def _is_plain(value: Any) -> bool:
    """Whether equal values have equal `repr` in another process."""
    return type(value) in PLAIN or (type(value) in {tuple, list} and all(map(_is_plain, value)))


def _versions() -> dict[str, str]:
    try:
        counter = importlib.metadata.version("ultralytics-thop")
    except importlib.metadata.PackageNotFoundError:
        counter = "none"
    return {
        "torch": torch.__version__,
        "ultralytics": ultralytics.__version__,
        "yolov12": __version__,
        "counter": counter,
    }


def _folder() -> Path | None:
    """Where counts are kept; None if nothing can be kept there, which is for those to say who need it more."""
    try:
        folder = settings.cache_choice()[0] / "operations"
        folder.mkdir(exist_ok=True)
    except (OSError, ExitError):
        return None
    return folder


def _read(path: Path) -> float | None:
    if not path.is_file():
        return None
    try:
        return float(json.loads(path.read_text())["gflops"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"model: {path} is ignored, operations are counted anew ({type(error).__name__}: {error})")
        return None


def _keep(path: Path, gflops: float) -> None:
    try:
        with replacing(path) as part:
            part.write_text(json.dumps({"gflops": gflops}))
    except (OSError, ExitError) as error:
        warn(f"model: the count of its operations is not kept for the next run: {error}")
