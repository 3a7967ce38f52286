# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does an exported file compute what its PyTorch source does? The tensors that leave the network, on real images.

`compare_raw` only measures; `require_raw` decides, and raises `ParityError` with the numbers. For boxes after NMS see
boxes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""How many times its own float32 rounding the source may be away from the export: both round, and not equally badly.

It matters for boxes that nobody sees. Where there is no object, an anchor's distribution over box edges may have two
peaks far apart, and its mean then moves by more than RAW_THRESHOLD pixels with the last digit of a float32.
"""


class ParityError(UserError):
    """An exported model does not compute what its source does. The message has the numbers."""


@dataclass(frozen=True)
class OutputParity:
    """One output of the exported file against the same output of the source."""

    name: str
    shape: tuple[int, ...]
    """Of one call: (batch, channels, anchors) for a detector."""
    largest_value: float
    max_abs_diff: float
    """NaN when one side has a NaN: no threshold accepts it."""
    mean_abs_diff: float
    rounding: float
    """Largest difference between the source in float32 and itself in float64."""

    def allowed(self, threshold: float) -> float:
        """The largest difference that is no sign of another computation."""
        return max(threshold, ROUNDINGS * self.rounding)


@dataclass(frozen=True)
class Parity:
    """Raw outputs over all images."""

    outputs: tuple[OutputParity, ...]
    images: int
    height_width: tuple[int, int]
    """Pixels at which both were run."""

    @property
    def max_abs_diff(self) -> float:
        """Largest difference of any element of any output."""
        return float(np.max([output.max_abs_diff for output in self.outputs]))

    @property
    def mean_abs_diff(self) -> float:
        """Largest of the outputs' mean differences."""
        return float(np.max([output.mean_abs_diff for output in self.outputs]))

    def allowed(self, threshold: float = RAW_THRESHOLD) -> float:
        """The largest difference that `require_raw` lets any output have."""
        return max(output.allowed(threshold) for output in self.outputs)

    def __str__(self) -> str:
        height, width = self.height_width
        return f"max {self.max_abs_diff:.1e}, mean {self.mean_abs_diff:.1e} on {self.images} images at {width}x{height}"


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
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    height_width = _input_size(session, imgsz)
    reference, exact = as_exported(source), as_exported(source).double()
    calls = []
    for start in range(0, len(images), batch):
        chunk = [images[(start + offset) % len(images)] for offset in range(batch)]  # a fixed batch is always full
        pixels = np.stack([_letterboxed(image, height_width) for image in chunk])
        with torch.inference_mode():
            expected = _tensors(reference(torch.from_numpy(pixels)))
            precise = _tensors(exact(torch.from_numpy(pixels).double()))
        got = session.run(names, {entry.name: pixels.astype(np.float16 if "float16" in entry.type else np.float32)})
        _require_same_shapes(onnx_path, expected, got)
        calls.append(list(zip(expected, got, precise, strict=True)))
    outputs = (_output_parity(name, of_calls) for name, of_calls in zip(names, zip(*calls, strict=True), strict=True))
    return Parity(tuple(outputs), len(images), height_width)


def require_raw(parity: Parity, threshold: float = RAW_THRESHOLD) -> Parity:
    """Give the measurement back when it is within the threshold, or the source's own rounding explains it.

    Raises:
        ParityError: it is not, or there is a NaN.
    """
    wrong = [output for output in parity.outputs if not output.max_abs_diff <= output.allowed(threshold)]  # also NaN
    if wrong:
        differences = "; ".join(
            f"{output.name} by {output.max_abs_diff:.2e} (mean {output.mean_abs_diff:.2e}, values up to "
            f"{output.largest_value:.3g}, allowed {output.allowed(threshold):.1e})"
            for output in wrong
        )
        raise ParityError(
            f"The exported model differs from its source on {parity.images} images: {differences}. Do not use this "
            f"file; export in float32 (half=False), and report it if that differs too."
        )
    return parity


def _output_parity(name: str, calls: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> OutputParity:
    """Distances of one output over all calls; each is (expected, got, expected in float64), of equal shape."""
    distances = [np.abs(got.astype(np.float32) - expected) for expected, got, _ in calls]
    return OutputParity(
        name=name,
        shape=calls[0][0].shape,
        largest_value=float(np.max([np.abs(expected).max() for expected, _, _ in calls])),
        max_abs_diff=float(np.max([distance.max() for distance in distances])),
        mean_abs_diff=float(np.mean([distance.mean() for distance in distances])),
        rounding=float(np.max([np.abs(expected - precise).max() for expected, _, precise in calls])),
    )


def _require_same_shapes(onnx_path: str | Path, expected: list[np.ndarray], got: list[np.ndarray]) -> None:
    shapes, exported_shapes = [list(array.shape) for array in expected], [list(array.shape) for array in got]
    if shapes != exported_shapes:
        raise ParityError(
            f"{onnx_path} gives outputs of shape {exported_shapes} and the model {shapes}. Compare a file with the "
            f"model that it was exported from, without nms=True."
        )


def _input_size(session: onnxruntime.InferenceSession, imgsz: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width): the file's own where it is fixed, else what was asked, else what upstream's metadata says."""
    height, width = session.get_inputs()[0].shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    if imgsz is None:
        traced_height, traced_width = session.get_modelmeta().custom_metadata_map["imgsz"].strip("[]").split(",")
        return int(traced_height), int(traced_width)
    return (imgsz, imgsz) if isinstance(imgsz, int) else imgsz


def _letterboxed(image: Image, height_width: tuple[int, int]) -> np.ndarray:
    """An image as prediction gives it to the network: (3, height, width), RGB, float32 in 0..1, padded with grey."""
    pixels = image if isinstance(image, np.ndarray) else imread(str(image))
    if pixels is None:
        raise UserError(f"Can not read the image {image}. Give a JPEG or PNG file.")
    boxed = np.asarray(LetterBox(height_width, auto=False)(image=pixels))
    return np.ascontiguousarray(boxed[:, :, ::-1].transpose(2, 0, 1), dtype=np.float32) / 255


def _tensors(outputs: Any) -> list[np.ndarray]:
    """The outputs in order, whether the network gives one tensor or several."""
    return [tensor.numpy() for tensor in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]
