# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection predictor: ultralytics' sources, arguments, callbacks, files and `Results`, from a GPU that is not kept waiting.

ultralytics launches the network's kernels one by one, suppresses boxes image by image, and empties the GPU's queue six times a batch to read the
clock. Here network and suppression run as CUDA graphs where a shape comes again (network.py, scoring/asked.py), files are decoded ahead
(read_ahead.py), pictures go up in one copy (staging.py), and a batch waits for the GPU once, when its boxes are there. On the CPU all of it is
ultralytics' own.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import ultralytics.engine.predictor as upstream_predictor
from torch import Tensor
from ultralytics.engine.results import Boxes, Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils import ops
from ultralytics.utils.callbacks.base import default_callbacks

from yolov12 import settings
from yolov12.engine import network
from yolov12.engine.letterbox import Letterbox
from yolov12.engine.network import Network
from yolov12.engine.not_yet import put_off
from yolov12.engine.read_ahead import Pictures, read_ahead
from yolov12.engine.replays import Replays
from yolov12.engine.scoring import fixed, timing
from yolov12.engine.scoring.asked import Suppression, asked
from yolov12.engine.staging import Staging, normalised
from yolov12.seams import Seam

SEAMS = (
    # Replaced.
    Seam("engine/predictor.py", 183, "ultralytics.engine.predictor.BasePredictor.preprocess", "e05e704d16e7"),
    Seam("engine/predictor.py", 208, "ultralytics.engine.predictor.BasePredictor.inference", "39000c00d3b9"),
    Seam(
        "models/yolo/detect/predict.py",
        33,
        "ultralytics.models.yolo.detect.predict.DetectionPredictor.postprocess",
        "2b6d0890723a",
    ),
    Seam("engine/predictor.py", 482, "ultralytics.engine.predictor.BasePredictor.write_results", "2293a7726ad6"),
    Seam("engine/predictor.py", 289, "ultralytics.engine.predictor.BasePredictor.setup_source", "3b8f7797c383"),
    # Its only use of `ops` is `Profile`.
    Seam("engine/predictor.py", 320, "ultralytics.engine.predictor.BasePredictor.stream_inference", "4df0375b4757"),
    # Followed rule by rule.
    Seam("engine/predictor.py", 457, "ultralytics.engine.predictor.BasePredictor.setup_model", "aa303e3212bb"),
    Seam("utils/nms.py", 13, "ultralytics.utils.nms.non_max_suppression", "51cdbaecdb06"),
    Seam(
        "models/yolo/detect/predict.py",
        119,
        "ultralytics.models.yolo.detect.predict.DetectionPredictor.construct_result",
        "93a4049d5ebd",
    ),
)


def install() -> None:
    """Have the parts of predictions on a GPU timed without waiting for it (engine/predictor.py:361).

    Of all tasks, which share that code, and only where predictions by graphs are asked for. May be called again, and follows the setting.
    """
    wanted = settings.current().predict_graphs
    upstream_predictor.ops = SimpleNamespace(**{**vars(ops), "Profile": timing.profile}) if wanted else ops


class Copied(NamedTuple):
    """A result with the boxes that were put into it, and these on the CPU."""

    result: Results
    boxes: Tensor
    rows: Tensor


class Fast:
    """What takes the place of ultralytics' own ways on a GPU."""

    def __init__(self, model: Any, pools: tuple[Any, Any], compiled: Any) -> None:
        network_pool, suppression_pool = pools
        self.staging = Staging(model.device)
        self.network = Network(model, network_pool, "predict", compiled)
        self.letterbox = Letterbox(self.staging, self.network.input_like)
        self.suppression = Suppression()
        self.suppress = Replays("suppression", self.suppression, suppression_pool)
        if settings.current().compile == "0":
            self.suppress.off = "compile=0"
        self.copied: list[Copied] = []
        """The results of the batch."""


class YOLOv12Predictor(DetectionPredictor):
    """Predicts with any detection model of ultralytics: same sources, arguments, callbacks, files and results.

    The boxes of a batch are rows of one tensor.
    """

    # Set by ultralytics; declared because mypy sees only our assignments.
    device: torch.device
    done_warmup: bool
    model: Any
    dataset: Any
    callbacks: dict[str, list[Any]]
    results: list[Results]
    fast: Fast | None = None
    """None where everything goes ultralytics' own way: on the CPU."""

    def setup_model(self, model: Any, verbose: bool = True) -> None:
        super().setup_model(model, verbose)
        # Two: what the network answered is looked at again where a crowd has no room in the graph of its suppression.
        pools = network.pool_of(self.device), network.pool_of(self.device)
        self.fast = None if pools[0] is None else Fast(self.model, pools, self.args.compile)
        # The first batch warms up: ultralytics' own way would run it twice, and import torchvision, for seconds, for a suppression that is not used.
        self.done_warmup = self.done_warmup or self.fast is not None
        if self.fast and takes_channels_last(self.model, self.args):
            with torch.inference_mode(
                False
            ):  # weights are to be ordinary tensors, also where a prediction sets itself up
                self.model.backend.model.to(memory_format=torch.channels_last)

    def setup_source(self, source: Any, stride: int | None = None) -> None:
        if self.fast is None:
            super().setup_source(source, stride)
            return
        with put_off("torchvision"):  # which it imports for its suppression
            super().setup_source(source, stride)
        # A method of this object would keep it as it keeps the source, and the graphs with both until Python looks for cycles.
        self.dataset = read_ahead(self.dataset, partial(_letterboxed, weakref.ref(self)))

    def preprocess(self, im: Tensor | list[np.ndarray]) -> Tensor:
        """(n, channels, height, width) of a batch's pictures: ultralytics' numbers, from one copy that nobody waits for."""
        if self.fast is None or isinstance(im, Tensor) or any(one.dtype != np.uint8 for one in im):
            return super().preprocess(im)
        # Prepared before that event, in which a callback may have painted over the pictures.
        ready = im.letterboxed if isinstance(im, Pictures) else None
        dtype = torch.float16 if self.model.fp16 else torch.float32
        if ready is None or self._somebody_hears("on_predict_batch_start"):
            if (made := self.fast.letterbox(self, im, dtype)) is not None:
                return made
            ready = self.pre_transform(im)
        return normalised(self.fast.staging.send(ready), dtype)

    def inference(self, im: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's predictions; a graph's are overwritten by the next batch's."""
        asks_more = args or kwargs or self.args.augment or self.args.embed or self.args.visualize
        if self.fast is None or asks_more or self.fast.network.why_eager(im) is not None:
            return super().inference(im, *args, **kwargs)
        return [self.fast.network(im)]

    def postprocess(self, preds: Any, img: Tensor, orig_imgs: Any, **kwargs: Any) -> list[Results]:
        """The `Results` of a batch. Waits for the GPU, once."""
        if self.fast is None or getattr(self, "_feats", None) is not None or kwargs.keys() - {"iou"}:
            if self.fast is not None:
                import torchvision  # noqa: F401  # with which ultralytics suppresses on the GPU, once it is there (utils/nms.py:99)
            return super().postprocess(preds, img, orig_imgs, **kwargs)
        prediction = preds[0] if isinstance(preds, (list, tuple)) else preds
        if not isinstance(orig_imgs, list):  # pictures came as a tensor
            orig_imgs = ops.convert_torch2numpy_batch(orig_imgs)[..., ::-1]
        what = asked(self.args, kwargs.get("iou", self.args.iou), bool(getattr(self.model, "end2end", False)))
        answer = self.fast.suppress(prediction, what).clone()  # the original may be a graph's
        scale(answer[:, :-1], img.shape[2:], orig_imgs)
        copy = answer.cpu()  # waits for the GPU
        counts = fixed.counts_of(copy)
        if counts is None:
            return self.construct_results(self.fast.suppression.by_waiting(prediction, what), img, orig_imgs)
        self.fast.copied = []
        for rows, on_cpu, count, picture, path in zip(answer, copy, counts, orig_imgs, self.batch[0], strict=True):
            boxes = rows[:count]
            result = Results(picture, path=path, names=self.model.names, boxes=boxes)
            self.fast.copied.append(Copied(result, boxes, on_cpu[:count]))
        return [copied.result for copied in self.fast.copied]

    def write_results(self, i: int, p: Path, im: Tensor, s: list[str]) -> str:
        """What ultralytics says and writes of a picture, from boxes that are on the CPU already."""
        result = self.results[i]
        rows = self._on_cpu(result)
        if rows is None:
            return super().write_results(i, p, im, s)
        self.results[i] = stand_in = result.new()
        stand_in.boxes = Boxes(rows, result.orig_shape)
        try:
            return super().write_results(i, p, im, s)
        finally:
            result.save_dir, self.results[i] = stand_in.save_dir, result

    def _somebody_hears(self, event: str) -> bool:
        """Whether an event has callbacks beside ultralytics' own, which do nothing; a tracker's count."""
        return any(callback not in default_callbacks[event] for callback in self.callbacks.get(event, ()))

    def _on_cpu(self, result: Results) -> Tensor | None:
        """Its rows; None if it did not come our way, or if somebody, a tracker say, has or may have put others in."""
        if self.fast is None or self._somebody_hears("on_predict_postprocess_end"):
            return None
        return next(
            (one.rows for one in self.fast.copied if one.result is result and one.boxes is result.boxes.data), None
        )


def _letterboxed(predictor: weakref.ref[YOLOv12Predictor], pictures: list[np.ndarray]) -> list[np.ndarray]:
    caller = predictor()
    assert caller is not None, "it is the predictor that asks for the next batch"
    return caller.pre_transform(pictures)


def takes_channels_last(model: Any, args: Any) -> bool:
    """Whether weights are laid out as tensor cores, our attention and our kernels take them; else each convolution turns its input round.

    In half precision, whose rounding hides it, and where nobody asked for another layout. Float32 stays as ultralytics has it.
    """
    return model.format == "pt" and model.fp16 and not args.compile and args.channels_last is None


def scale(rows: Tensor, size: Sequence[int], pictures: Sequence[np.ndarray]) -> None:
    """Move boxes in place from the pixels of a batch to those of its pictures, by ultralytics' function.

    Args:
        rows: (images, n, 6).
        size: (height, width) of the batch.
        pictures: (height, width, channels) each; all at once where they are of one size.
    """
    if len({picture.shape[:2] for picture in pictures}) == 1:
        ops.scale_boxes(tuple(size), rows[..., :4], pictures[0].shape)
        return
    for boxes, picture in zip(rows, pictures, strict=True):
        ops.scale_boxes(tuple(size), boxes[:, :4], picture.shape)
