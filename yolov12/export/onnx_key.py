# SPDX-License-Identifier: AGPL-3.0-or-later
"""Under what the float32 graph of an engine lies in the cache: all that decides what is traced, known without a trace.

The precision is none of it, nor are the pictures that int8 is calibrated on: both are set in the graph afterwards, at every export (run.py). An
engine's own key is made of the graph that comes out (engine.py).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ultralytics.cfg import DEFAULT_CFG
from ultralytics.engine.exporter import Exporter, NMSModel
from ultralytics.engine.model import Model
from ultralytics.utils.export import engine

from yolov12.export import builder, cache, fingerprint
from yolov12.export.adapter import destination
from yolov12.seams import Seam

SEAMS = (Seam("engine/model.py", 753, "ultralytics.engine.model.Model.export", "e0be3f1e1160"),)

PACKAGES = ("torchvision", "ultralytics", "onnx", "onnxslim", "numpy")
"""What traces and simplifies besides torch, and besides our own sources, which are in the hash of the network."""
EVENTS = ("on_export_start", "on_export_end")
"""Of a model's callbacks, those that ultralytics' exporter calls."""


def of_source(network: Any, asked: Mapping[str, Any], model: Any) -> cache.Key | None:
    """The key; None where a script's own code, or something that is no plain value, may decide what is traced.

    Args:
        network: what is exported.
        asked: what ultralytics' export is called with.
        model: the ultralytics model that it is called on.
    """
    on_the_way = (Model.export, engine.torch2onnx, torch.onnx.export, *_callbacks(model))
    if not fingerprint.are_known((Exporter, NMSModel), on_the_way):
        return None
    source = fingerprint.of(network)
    about = fingerprint.of_values(_arguments(network, asked, model), _metadata(network))
    if source is None or about is None:
        return None
    return {
        "source": source,
        "about": about,
        "precision": "fp32",
        "builder": f"ONNX graph by torch {torch.__version__}",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "gpu": builder.gpu_here() if torch.cuda.is_available() else "no GPU",
    }


def _callbacks(model: Any) -> list[Any]:
    return [call for event in EVENTS for call in model.callbacks.get(event, ())]


def _arguments(network: Any, asked: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """All of them, with what ultralytics fills in (engine/model.py:788), but not where the weights lie."""
    filled_in = {"imgsz": _trained(network).get("imgsz"), "batch": 1, "data": None, "device": None, "verbose": False}
    return {**vars(DEFAULT_CFG), **model.overrides, **filled_in, **asked, "model": None}


def _metadata(network: Any) -> list[Any]:
    """What the exporter writes into the file of what no forward reads (engine/exporter.py:990), and the hash of the network leaves out."""
    name = Path(network.yaml.get("yaml_file", destination(network))).stem
    return [name, _trained(network).get("data"), getattr(network, "names", None), network.task]


def _trained(network: Any) -> Mapping[str, Any]:
    """The arguments of its training, as far as it has them."""
    return getattr(network, "args", None) or {}
