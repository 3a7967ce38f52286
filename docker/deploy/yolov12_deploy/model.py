# SPDX-License-Identifier: AGPL-3.0-or-later
"""A detection model as `yolov12 export` writes it: pictures in, boxes out, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolov12_deploy.boxes import suppress
from yolov12_deploy.errors import UsageError
from yolov12_deploy.letterbox import letterbox
from yolov12_deploy.session import open_session


@dataclass(frozen=True)
class Thresholds:
    """Upstream's defaults (cfg/default.yaml)."""

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300


class Detector:
    """Pictures in, detections out."""

    def __init__(self, model: Path, imgsz: int | None = None, threads: int = 0, device: str = "auto") -> None:
        """Load `model`.

        Args:
            model: an ONNX file, or a TensorRT engine that ends in `.engine`.
            imgsz: side of the input in pixels, for a model with an open input size.
            threads: of the CPU; 0 takes all cores.
            device: `auto` or `cpu`, see session.open_session.

        Raises:
            UsageError: it can not be loaded, is not a detection model, takes several pictures at once or others than colour pictures, or `imgsz`
                is not the size that it was exported with.
        """
        self.session = open_session(model, threads, device)
        known = self.session.metadata
        if (task := known.get("task", "detect")) != "detect":
            raise UsageError(f"model={model} is a model for {task}; only detect is understood here")
        if self.session.shape[0] not in (1, None):
            raise UsageError(f"model={model} takes {self.session.shape[0]} pictures at once: export it with batch=1")
        if self.session.shape[1] not in (3, None):
            raise UsageError(f"model={model} takes {self.session.shape[1]} channels, and pictures have 3 here")
        self.names: dict[int, str] = {int(number): name for number, name in known.get("names", {}).items()}
        self.has_suppression = bool(known.get("end2end") or known.get("args", {}).get("nms"))
        self.height, self.width = self._input_size(imgsz, known.get("imgsz", (640, 640)))

    def _input_size(self, imgsz: int | None, exported_with: tuple[int, int]) -> tuple[int, int]:
        height, width = self.session.shape[2:]
        if height is not None and width is not None:
            if imgsz not in (None, height, width):
                raise UsageError(f"imgsz={imgsz}, but the model was exported for {height}x{width}: leave imgsz out")
            return height, width
        if imgsz:
            return imgsz, imgsz
        height, width = exported_with
        return height, width

    def predict(self, picture: np.ndarray, thresholds: Thresholds = Thresholds()) -> np.ndarray:
        """Detections (n, 6) of one BGR picture (height, width, 3) uint8: x1, y1, x2, y2 in its pixels, score, class; best first."""
        pixels, place = letterbox(picture, self.height, self.width)
        output = self.session.run(pixels.astype(self.session.dtype, copy=False))[0].astype(np.float32)
        if self.has_suppression:
            found = output[output[:, 4] > thresholds.conf][: thresholds.max_det]
        else:
            found = suppress(output, thresholds.conf, thresholds.iou, thresholds.max_det)
        found[:, :4] = place.to_picture(found[:, :4])
        return found
