# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does an exported file compute what its PyTorch source does? The tensors that leave the network, on real images.

`compare_raw` only measures; `require_raw` decides, and raises `ParityError` with the numbers. For boxes after NMS see
boxes.py.

What a detector says where it sees nothing is measured apart. An anchor without an object may have two likely places for
an edge, far from each other, and then the edge moves by whole thousandths of a pixel with the last digit of a float32:
in any runtime, and to nobody's harm. Such rounding is measured too, as the source's own distance from itself in float64.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils.patches import imread

from yolov12.errors import UserError
from yolov12.export.adapter import as_exported

Image = str | Path | np.ndarray
"""A file, or pixels as OpenCV has them: (height, width, 3), uint8, BGR."""

RAW_THRESHOLD = 1e-3
"""Largest difference that is always allowed: pixels for boxes, probability for scores."""
ROUNDINGS = 4
"""How many times its own float32 rounding the source may be away from the export: both round, and not equally badly."""
SEEN_SCORE = 1e-3
"""An anchor that scores less is not looked at by anyone: ultralytics validates from here on (engine/validator.py:144)."""
OPEN_BATCH = 2
"""Pictures that a file which takes any number is given at a time: one alone would not show a number that was built in by mistake."""
WITH_ANCHORS = ("detect", "segment", "pose", "obb")
"""Tasks whose first output is (batch, 4 + classes + others, anchors)."""


class ParityError(UserError):
    """An exported model does not compute what its source does. The message has the numbers."""


@dataclass(frozen=True)
class Distance:
    """One output of the exported file against the same output of the source, or a part of it."""

    name: str
    max_abs_diff: float
    """NaN when one side has a NaN: no threshold accepts it."""
    mean_abs_diff: float
    largest_value: float
    rounding: float
    """Largest difference between the source in float32 and itself in float64."""

    def allowed(self, threshold: float = RAW_THRESHOLD) -> float:
        """The largest difference that is no sign of another computation."""
        return max(threshold, ROUNDINGS * self.rounding)


@dataclass(frozen=True)
class Parity:
    """Raw outputs over all images."""

    outputs: tuple[Distance, ...]
    """Each output: all scores, and all else of the anchors that score at least SEEN_SCORE."""
    unseen: tuple[Distance, ...]
    """All else of the other anchors. Empty where outputs have no anchors, or every one of them is seen."""
    images: int
    height_width: tuple[int, int]
    """Pixels at which both were run."""

    @property
    def max_abs_diff(self) -> float:
        """Largest difference of any element of any output that is looked at."""
        return float(np.max([output.max_abs_diff for output in self.outputs]))

    @property
    def mean_abs_diff(self) -> float:
        """Largest of the outputs' mean differences."""
        return float(np.max([output.mean_abs_diff for output in self.outputs]))


@dataclass(frozen=True)
class Exported:
    """A file that can be run here, whatever its format."""

    run: Callable[[np.ndarray], list[np.ndarray]]
    """Pictures (batch, channels, height, width) float32 in 0..1 -> its outputs."""
    names: tuple[str, ...]
    """Of the outputs."""
    batch: int
    """Pictures that each call takes."""
    height_width: tuple[int, int]
    channels: int
    classes: int | None
    """Scores of each anchor; None for outputs without anchors."""


def open_onnx(model: str | Path | bytes, imgsz: int | tuple[int, int] | None = None) -> Exported:
    """An ONNX model on the CPU, with what upstream wrote into it.

    Args:
        model: the file, or its bytes.
        imgsz: pixels, for a file with open height and width; without it, the size that the export was traced with.
    """
    session = onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"]
    )
    (entry,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    dtype = np.float16 if "float16" in entry.type else np.float32
    return Exported(
        run=lambda pixels: session.run(names, {entry.name: pixels.astype(dtype, copy=False)}),
        names=tuple(names),
        batch=entry.shape[0] if isinstance(entry.shape[0], int) else OPEN_BATCH,
        height_width=_input_size(session, imgsz),
        channels=entry.shape[1],
        classes=_classes_per_anchor(session),
    )


def compare_raw(
    source: torch.nn.Module,
    onnx_path: str | Path,
    images: Sequence[Image],
    imgsz: int | tuple[int, int] | None = None,
) -> Parity:
    """Run both on the CPU in float32 over the same letterboxed images and measure how far their outputs lie apart.

    Args:
        source: the PyTorch network (`YOLO(...).model`), on any device; it is copied, not touched.
        onnx_path: what was exported from it, without NMS in it.
        images: at least one.
        imgsz: pixels, for a file with open height and width; without it, the size that the export was traced with.

    Raises:
        UserError: there is no image, or one can not be read.
        ParityError: the two do not even have outputs of the same shape.
    """
    if not images:
        raise UserError("compare_raw got no image. Give at least one.")
    exported = open_onnx(onnx_path, imgsz)
    reference, exact = as_exported(source), as_exported(source).double()
    calls = []
    for pixels in full_batches(exported, images):
        with torch.inference_mode():
            expected = tensors(reference(torch.from_numpy(pixels)))
            precise = tensors(exact(torch.from_numpy(pixels).double()))
        got = exported.run(pixels)
        require_same_shapes(onnx_path, expected, got)
        calls.append(list(zip(expected, got, precise, strict=True)))
    seen: list[Distance] = []
    unseen: list[Distance] = []
    for index, name in enumerate(exported.names):
        all_calls = [np.concatenate(arrays) for arrays in zip(*(call[index] for call in calls), strict=True)]
        mask = seen_elements(all_calls[0], exported.classes if index == 0 else None)
        seen += distance(name, *(array[mask] for array in all_calls))
        unseen += distance(f"{name} below score {SEEN_SCORE}", *(array[~mask] for array in all_calls))
    return Parity(tuple(seen), tuple(unseen), len(images), exported.height_width)


def full_batches(exported: Exported, images: Sequence[Image]) -> Iterator[np.ndarray]:
    """The letterboxed images in batches as the file takes them; the last one is filled up from the front."""
    for start in range(0, len(images), exported.batch):
        chunk = [images[(start + offset) % len(images)] for offset in range(exported.batch)]
        yield np.stack([letterboxed(image, exported.height_width, exported.channels) for image in chunk])


def require_raw(parity: Parity, threshold: float = RAW_THRESHOLD) -> Parity:
    """Give the measurement back when it is within the threshold, or the source's own rounding explains it.

    Raises:
        ParityError: it is not, or there is a NaN.
    """
    everything = (*parity.outputs, *parity.unseen)
    wrong = [part for part in everything if not part.max_abs_diff <= part.allowed(threshold)]  # also NaN
    if wrong:
        differences = "; ".join(
            f"{part.name} by {part.max_abs_diff:.2e} (mean {part.mean_abs_diff:.2e}, values up to "
            f"{part.largest_value:.3g}, allowed {part.allowed(threshold):.1e})"
            for part in wrong
        )
        raise ParityError(
            f"The exported model differs from its source on {parity.images} images: {differences}. Do not use this "
            f"file; export in float32 (half=False), and report it if that differs too."
        )
    return parity


def seen_elements(expected: np.ndarray, classes: int | None) -> np.ndarray:
    """Which elements of an output are looked at: bool, of the shape of `expected`.

    Args:
        expected: (batch, 4 + classes + others, anchors) where `classes` is given, else of any shape.
        classes: how many channels after the box's four are scores; None for an output without anchors.
    """
    mask = np.ones(expected.shape, bool)
    if classes is not None:
        scores = slice(4, 4 + classes)
        mask[:] = expected[:, scores].max(axis=1, keepdims=True) >= SEEN_SCORE
        mask[:, scores] = True
    return mask


def distance(name: str, expected: np.ndarray, got: np.ndarray, precise: np.ndarray) -> Iterator[Distance]:
    """How far `got` lies from `expected`, and that from itself in float64; nothing for arrays without elements."""
    if expected.size:
        difference = np.abs(got.astype(np.float32) - expected)
        yield Distance(
            name=name,
            max_abs_diff=float(difference.max()),
            mean_abs_diff=float(difference.mean()),
            largest_value=float(np.abs(expected).max()),
            rounding=float(np.abs(expected - precise).max()),
        )


def require_same_shapes(onnx_path: str | Path, expected: list[np.ndarray], got: list[np.ndarray]) -> None:
    """Refuse two lists of outputs that can not be of the same model.

    Raises:
        ParityError: names both.
    """
    shapes, exported_shapes = [list(array.shape) for array in expected], [list(array.shape) for array in got]
    if shapes != exported_shapes:
        raise ParityError(
            f"{onnx_path} gives outputs of shape {exported_shapes} and the model {shapes}. Compare a file with the "
            f"model that it was exported from, without nms=True."
        )


def _classes_per_anchor(session: onnxruntime.InferenceSession) -> int | None:
    """How many scores an anchor has, from what upstream writes into the file (engine/exporter.py:993); None: no anchors."""
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata["task"] not in WITH_ANCHORS or metadata["end2end"] == "True":
        return None
    return len(ast.literal_eval(metadata["names"]))


def _input_size(session: onnxruntime.InferenceSession, imgsz: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width): the file's own where it is fixed, else what was asked, else what upstream's metadata says."""
    height, width = session.get_inputs()[0].shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    if imgsz is None:
        traced_height, traced_width = ast.literal_eval(session.get_modelmeta().custom_metadata_map["imgsz"])
        return traced_height, traced_width
    return (imgsz, imgsz) if isinstance(imgsz, int) else imgsz


def letterboxed(image: Image, height_width: tuple[int, int], channels: int = 3) -> np.ndarray:
    """An image as prediction gives it to the network: (channels, height, width), float32 in 0..1, padded with grey.

    RGB for three channels. A network that takes others gets those again and again, which is no picture of its kind and has the values of one.
    """
    pixels = image if isinstance(image, np.ndarray) else imread(str(image))
    if pixels is None:
        raise UserError(f"Can not read the image {image}. Give a JPEG or PNG file.")
    boxed = np.asarray(LetterBox(height_width, auto=False)(image=pixels))
    rgb = boxed[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(rgb[np.arange(channels) % 3], dtype=np.float32) / 255


def tensors(outputs: Any) -> list[np.ndarray]:
    """The outputs in order, whether the network gives one tensor or several."""
    return [tensor.numpy() for tensor in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]
