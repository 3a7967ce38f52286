# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run measured, for the next run of the same model, shape and device: a small JSON file each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

from yolov12 import __version__
from yolov12.engine.profile import Measured
from yolov12.errors import ExitError, UserError
from yolov12.log import warn
from yolov12.model.attention import dispatch
from yolov12.model.fused.norm import kernels_missing
from yolov12.model.fused.trace import Trace
from yolov12.wholefile import replacing

Key = dict[str, str]

FORMAT = 2
"""Of the files; goes up when what is in them changes."""


def key_of(trace: Trace, device: torch.device, dtype: torch.dtype) -> Key:
    """What a measurement depends on. The trace holds the layers of the model and, by the bytes of each, the shape of the batch."""
    structure = hashlib.sha256(repr((trace.convolutions, trace.others, trace.output_elements)).encode()).hexdigest()
    try:
        # For calls that are not large, or a kernel would be tried that this run may have no use for. How large they are is in the structure.
        attention, _ = dispatch.describe(device, dtype, training=True)
    except UserError:  # a backend was asked for that can not serve; models without attention train all the same
        attention = "refused"
    cudnn = torch.backends.cudnn
    return {
        "model and batch": structure,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": attention,
        "batch norm": "torch" if kernels_missing(device) else "kernels",
        "cudnn": f"{cudnn.version()}, benchmark {cudnn.benchmark}, deterministic {cudnn.deterministic}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": f"yolov12 {__version__}, torch {torch.__version__}, format {FORMAT}",
    }


def load(folder: Path, key: Key, calls: int) -> Measured | None:
    """What was measured earlier for this key and this number of calls; None if nothing was, or if the file can not be read, which is said."""
    path = _path(folder, key)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())["measured"]
        convolution_ms, rest_ms = (tuple(map(float, found[name])) for name in ("convolution_ms", "rest_ms"))
        if not len(convolution_ms) == len(rest_ms) == calls:
            raise ValueError(f"times of {len(convolution_ms)} calls, and the model has {calls}")
        excess_and_parts = (int(found[name]) for name in ("loss_excess_bytes", "backward_excess_bytes", "parts"))
        return Measured(convolution_ms, rest_ms, *excess_and_parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"memory: {path} is ignored, this run measures anew ({type(error).__name__}: {error})")
        return None


def store(folder: Path, key: Key, measured: Measured) -> None:
    """Keep it for the next run; where that is not possible the run goes on, and it is said."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(_path(folder, key)) as part:
            part.write_text(json.dumps({"key": key, "measured": asdict(measured)}, indent=1))
    except (OSError, ExitError) as error:
        warn(f"memory: what was measured is not kept for the next run: {error}")


def _path(folder: Path, key: Key) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
