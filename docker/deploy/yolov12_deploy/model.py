# SPDX-License-Identifier: AGPL-3.0-or-later
"""A detection model in an ONNX file, as `yolov12 export format=onnx` writes it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from yolov12_deploy.boxes import suppress
from yolov12_deploy.errors import UsageError
from yolov12_deploy.letterbox import letterbox


@dataclass(frozen=True)
class Thresholds:
    """Upstream's defaults (cfg/default.yaml)."""

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300


class Detector:
    """Pictures in, detections out."""

    def __init__(self, model: Path, imgsz: int | None = None, threads: int = 0) -> None:
        """Load `model`.

        Args:
            model: an ONNX file.
            imgsz: side of the input in pixels, for a model with an open input size.
            threads: 0 lets ONNX Runtime take all cores.

        Raises:
            UsageError: no such file, not an ONNX model, not a detection model, or `imgsz` is not the size that it was exported with.
        """
        if not model.is_file():
            raise UsageError(f"model={model}: there is no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings are about GPUs that are not there
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except (
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
            onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
            onnxruntime.capi.onnxruntime_pybind11_state.Fail,
        ) as error:
            raise UsageError(f"model={model} is not an ONNX model that can be loaded: {error}") from error
        known = self.session.get_modelmeta().custom_metadata_map
        if (task := known.get("task", "detect")) != "detect":
            raise UsageError(f"model={model} is a model for {task}; only detect is understood here")
        self.names: dict[int, str] = ast.literal_eval(known.get("names", "{}"))
        self.has_suppression = known.get("end2end") == "True" or "'nms': True" in known.get("args", "")
        self.input = self.session.get_inputs()[0]
        self.height, self.width = self._input_size(imgsz, known.get("imgsz", ""))

    def _input_size(self, imgsz: int | None, exported_with: str) -> tuple[int, int]:
        height, width = self.input.shape[2:]
        if isinstance(height, int) and isinstance(width, int):
            if imgsz not in (None, height, width):
                raise UsageError(f"imgsz={imgsz}, but the model was exported for {height}x{width}: leave imgsz out")
            return height, width
        if imgsz:
            return imgsz, imgsz
        height, width = ast.literal_eval(exported_with or "[640, 640]")
        return height, width

    def predict(self, picture: np.ndarray, thresholds: Thresholds = Thresholds()) -> np.ndarray:
        """Detections (n, 6) of one BGR picture (height, width, 3) uint8: x1, y1, x2, y2 in its pixels, score, class; best first."""
        pixels, place = letterbox(picture, self.height, self.width)
        if self.input.type == "tensor(float16)":
            pixels = pixels.astype(np.float16)
        (output,) = self.session.run(None, {self.input.name: pixels})[:1]
        output = output[0].astype(np.float32)
        if self.has_suppression:
            found = output[output[:, 4] > thresholds.conf][: thresholds.max_det]
        else:
            found = suppress(output, thresholds.conf, thresholds.iou, thresholds.max_det)
        found[:, :4] = place.to_picture(found[:, :4])
        return found
