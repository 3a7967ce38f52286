# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gate that every export goes through before it is called done (promise 7): run against its source on real images, the numbers told.

What can not be run on this machine is not called verified, and the line says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from ultralytics.utils import ASSETS

from yolov12.export import divergence, parity, ranked, rounded, roundings, suppressed
from yolov12.export.adapter import as_exported
from yolov12.export.candidates import Room
from yolov12.export.parity import ParityError
from yolov12.export.request import STRIDE, Evaluate, Suppression
from yolov12.export.roundings import LayerError
from yolov12.export.seen import SHOWN_SCORE, TOLERANCES, Tolerance, compare_seen, require_seen
from yolov12.seams import replaced

ANOTHER_BY = (2, 1)
"""Strides that height and width are larger by in the second comparison of a file that takes any size; no square again."""
NMS_LEAST_IOU = {"fp32": 0.99, "fp16": 0.95, "int8": 0.5}
"""How well boxes that are left after suppression must overlap."""

ANOTHER_NUMBER = (
    "parity: both numbers are right: only rounding tells some of the classes, overlaps or scores apart (docs/export.md)"
)
SEES_NOTHING = "parity: the model sees nothing on these images, so no box was compared; data=my.yaml compares mAP"


@dataclass(frozen=True)
class Case:
    """One exported file and what it must agree with."""

    source: torch.nn.Module
    """The PyTorch network."""
    path: Path
    form: str
    """onnx, torchscript, engine or aoti."""
    precision: str
    """fp32, fp16 or int8."""
    imgsz: tuple[int, int]
    """(height, width) in pixels that it was exported at."""
    nms: Suppression | None = None
    """What is in the file."""
    evaluate: Evaluate | None = None
    ranked: Suppression | None = None
    """What was asked of a file that gives the best rows of the head that needs no NMS (ranked.py); `agnostic` alone counts there."""


def bundled_images() -> list[Path]:
    """The photos that come with ultralytics."""
    return sorted(ASSETS.glob("*.jpg"))


def is_ranked(network: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether ultralytics' exporter took the head that needs no NMS, of two (`nms=False`), while the network answers with the other."""
    return bool(metadata.get("end2end")) and not getattr(network, "end2end", False)


def why_not_compared(network: Any, metadata: Mapping[str, Any]) -> str:
    """Why a file of ultralytics' exporter is not compared with its source; "" if it is."""
    if not is_ranked(network, metadata) or metadata["task"] == "detect":
        return ""
    return f"rows of a model for {metadata['task']} that needs no NMS are not compared; leave nms=False out, and predict suppresses"


def verify(case: Case, images: Sequence[parity.Image] | None = None) -> list[str]:
    """Compare, and give the lines that tell of it.

    Raises:
        ParityError: they differ by more than is allowed; says by how much, and where they part.
    """
    pictures = list(images or bundled_images())
    allowed = TOLERANCES[case.precision]
    with _explained(case, pictures):
        lines = list(_compared(case, pictures, allowed))
        if case.form == "onnx" and case.precision == "fp16":
            lines.append(_layer_by_layer(case, pictures))
        if _takes_any_size(case):
            another = _another_size(case)
            if reason := _why_not_at(case.source, another):
                lines.append(
                    f"parity: not at another size as well: the network itself does not take {another[1]}x{another[0]}: {reason}"
                )
            else:
                lines += _compared(replace(case, imgsz=another), pictures, allowed)
    return lines + verify_map(case, pictures)


def verify_map(case: Case, images: Sequence[parity.Image] | None = None) -> list[str]:
    """Compare mAP alone, where there is something that measures it; gives and raises what `verify` does."""
    if case.evaluate is None:
        return []
    with _explained(case, list(images or bundled_images())):
        return [_same_map(case, case.evaluate, TOLERANCES[case.precision])]


@contextmanager
def _explained(case: Case, pictures: Sequence[parity.Image]) -> Iterator[None]:
    """Within the block an error says where source and export part, or that the file does not run."""
    try:
        yield
    except LayerError:
        raise
    except ParityError as error:
        raise ParityError(f"{error} {_where(case, pictures)}") from error
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ParityError(f"{case.path} does not run on pictures that it says it takes: {said}") from error


def _layer_by_layer(case: Case, images: Sequence[parity.Image]) -> str:
    model = onnx.load(case.path)
    pixels = next(parity.full_batches(parity.open_onnx(case.path, case.imgsz), images))
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    layers = roundings.require_rounded(case.source, rounded.emulated(model), pixels[:batch])
    if not layers:
        return "parity: no convolution of the file has the name of one of its source, so none was compared by itself"
    off = max(layer.off for layer in layers)
    return f"parity: {len(layers)} convolutions, each by itself, off by {off:.1e} of their terms (allowed {roundings.ALLOWED:.1e})"


def _takes_any_size(case: Case) -> bool:
    """Whether a file is to be compared at another size, too: one that was built in by mistake shows there only.

    Outputs of the network alone, of ONNX files. int8 is calibrated at the size of the export, and measured there.
    """
    if case.form != "onnx" or case.nms or case.ranked or case.precision == "int8":
        return False
    shape = onnx.load(case.path, load_external_data=False).graph.input[0].type.tensor_type.shape
    return all(side.dim_param for side in shape.dim[2:])


def _another_size(case: Case) -> tuple[int, int]:
    """(height, width) that the network takes as well: some have a stride of 64."""
    stride = max(STRIDE, *map(int, getattr(case.source, "stride", ())))
    height, width = (side + by * stride for side, by in zip(case.imgsz, ANOTHER_BY, strict=True))
    return height, width


def _why_not_at(source: torch.nn.Module, imgsz: tuple[int, int]) -> str:
    """Why the network does not take pictures of this size, in torch's words; empty where it does. Its areas may not divide a map evenly."""
    channels = getattr(source, "yaml", {}).get("channels", 3)
    try:
        with torch.inference_mode():
            as_exported(source)(torch.zeros(1, channels, *imgsz))
    except RuntimeError as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def _compared(case: Case, images: Sequence[parity.Image], allowed: Tolerance) -> Iterator[str]:
    size = "{1}x{0}".format(*case.imgsz)
    begin = f"parity: {case.form} in {case.precision} against its source on {len(images)} images at {size}:"
    if case.ranked is not None:
        opened = open_graph(case) if case.form == "onnx" else open_backend(case)
        best = ranked.compare(case.source, opened, images, allowed, case.ranked.agnostic)
        yield (
            f"{begin} {best.rows} rows above {SHOWN_SCORE} of {best.pairs} (boxes within {best.box_px:.2g} px, allowed {allowed.box_px:g}; "
            f"scores within {best.score:.1e}, allowed {allowed.score:g})"
        )
        if not best.pairs:
            yield SEES_NOTHING
    elif case.nms is not None:
        opened = open_graph(case) if case.form == "onnx" else open_backend(case)
        room = Room(NMS_LEAST_IOU[case.precision], allowed.score)
        found = suppressed.compare(case.source, opened, images, case.nms, room, with_others=case.precision == "fp32")
        others = f", the rest within {found.others.max_abs_diff:.1e}" if found.others else ""
        yield (
            f"{begin} {found.boxes} of {found.source_boxes} boxes (least IoU {found.least_iou:.4f}, scores within "
            f"{found.largest_score_difference:.1e}{others})"
        )
        if found.boxes != found.source_boxes:
            yield ANOTHER_NUMBER
        if not found.source_boxes:
            yield SEES_NOTHING
    elif case.form == "onnx" and case.precision == "fp32":
        raw = parity.require_raw(parity.compare_raw(case.source, case.path, images, case.imgsz))
        yield f"{begin} outputs within {raw.max_abs_diff:.1e} (allowed {parity.RAW_THRESHOLD:g})"
    else:
        opened = open_graph(case) if case.form == "onnx" else open_backend(case)
        seen = require_seen(compare_seen(case.source, case.path, opened, images), allowed)
        yield (
            f"{begin} boxes within {seen.box_px:.2g} px (allowed {allowed.box_px:g}), scores within {seen.score:.1e} "
            f"(allowed {allowed.score:g}), {seen.shown} anchors above {SHOWN_SCORE}"
        )
        if opened.classes is not None and not seen.shown:
            yield SEES_NOTHING


def open_graph(case: Case) -> parity.Exported:
    """An ONNX file on the CPU; where it has float16, with each result rounded as a GPU rounds it, after it was seen to load as it is."""
    model = onnx.load(case.path)
    if not rounded.has_half(model):
        return parity.open_onnx(case.path, case.imgsz)
    parity.open_onnx(case.path, case.imgsz)
    return parity.open_onnx(rounded.emulated(model).SerializeToString(), case.imgsz)


def open_backend(case: Case) -> parity.Exported:
    """A file as ultralytics runs it: TorchScript on the CPU, an engine on the first GPU, a package on what it was compiled for."""
    from ultralytics.nn.autobackend import AutoBackend

    device = torch.device("cuda:0" if case.form == "engine" else "cpu")
    backend = AutoBackend(str(case.path), device=device, fp16=False, verbose=False)

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        # The source is run in float32. cuDNN would round what goes into convolutions to TF32, as it does for a `.pt` file on a GPU.
        with torch.inference_mode(), replaced(torch.backends.cudnn, allow_tf32=False):
            outputs = backend(torch.from_numpy(pixels).to(backend.device))
        several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [output.float().cpu().numpy() for output in several if isinstance(output, torch.Tensor)]

    return parity.Exported(
        run=run,
        names=(),
        batch=int(backend.batch),
        height_width=case.imgsz,
        channels=int(getattr(backend, "channels", 3)),
        classes=len(backend.names) if backend.task in parity.WITH_ANCHORS and not backend.end2end else None,
    )


def _same_map(case: Case, evaluate: Evaluate, allowed: Tolerance) -> str:
    if case.imgsz[0] != case.imgsz[1]:
        return "parity: mAP is not compared: ultralytics validates a network on squares only (engine/validator.py:146), and this is none"
    before, after = evaluate(None, case.imgsz), evaluate(case.path, case.imgsz)
    words = f"mAP50-95 {before:.2f} -> {after:.2f}"
    if not before - after <= allowed.map_points:
        raise ParityError(
            f"The exported model is worse than its source: {words} (allowed {allowed.map_points:g} points less)."
        )
    return f"parity: {words} (allowed {allowed.map_points:g} points less)"


def _where(case: Case, images: Sequence[parity.Image]) -> str:
    """Where source and export part, in a sentence; of what can not be looked into, what else tells it."""
    if case.form == "engine":
        return "The ONNX file that it was built from agrees with its source, so they part in TensorRT."
    if case.form != "onnx":
        return f"What single layers give can not be read from {case.form}; format=onnx names the layer, if that differs too."
    pixels = next(iter(parity.full_batches(parity.open_onnx(case.path, case.imgsz), images)))
    model = onnx.load(case.path)
    graph = rounded.emulated(model) if rounded.has_half(model) else model
    found = divergence.describe(case.source, graph, pixels, case.precision)
    return f"{found[:1].upper()}{found[1:]}."
