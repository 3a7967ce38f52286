# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection predictor: ultralytics' sources, arguments, callbacks, files and `Results`, from a GPU that is not kept waiting.

ultralytics launches the network's kernels one by one, suppresses boxes image by image, and empties the GPU's queue six times a batch to read the
clock. Here network and suppression run as CUDA graphs where a shape comes again (network.py, scoring/asked.py), files are decoded ahead
(read_ahead.py), pictures go up in one copy (staging.py), and a batch waits for the GPU once, when its boxes are there; on request the next batch of
files is begun before (ahead.py). On the CPU all of it is ultralytics' own, but for the import of torchvision (nms_kernel.py).
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
from ultralytics.engine.predictor import BasePredictor
from ultralytics.engine.results import Boxes, Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils import ops
from ultralytics.utils.callbacks.base import default_callbacks

from yolov12 import settings
from yolov12.engine import ahead, network, nms_kernel
from yolov12.engine.ahead import Launched
from yolov12.engine.letterbox import Letterbox
from yolov12.engine.network import Network
from yolov12.engine.not_yet import put_off
from yolov12.engine.read_ahead import Pictures, ReadAhead, read_ahead
from yolov12.engine.replays import Replays
from yolov12.engine.scoring import fixed, in_kernels, timing
from yolov12.engine.scoring.asked import Asked, Suppression, asked
from yolov12.engine.scoring.scale import placing_of, scale
from yolov12.engine.staging import Staging, gathered, normalised
from yolov12.log import say_once
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

WARMED_UP_ON_A_CPU = {"torchscript", "triton"}
"""Formats that ultralytics runs once before the first picture there."""


def install() -> None:
    """Have the parts of predictions on a GPU timed without waiting for it (engine/predictor.py:361), and the next batch begun before its turn.

    Of all tasks, which share that code, and only where predictions by graphs are asked for. May be called again, and follows the settings.
    """
    wanted = settings.current()
    upstream_predictor.ops = (
        SimpleNamespace(**{**vars(ops), "Profile": timing.profile}) if wanted.predict_graphs else ops
    )
    ahead.install(wanted.predict_graphs and wanted.predict_ahead)


class Copied(NamedTuple):
    """A result with the boxes that were put into it."""

    result: Results
    boxes: Tensor


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
        self.in_kernels = in_kernels.are_asked_for(model.device)
        self.copied: list[Copied] = []
        """The results of the batch."""
        self.on_cpu = torch.empty(0)
        """Its boxes there: (images, most + 1, 6)."""
        self.launched: Launched | None = None
        """The batch whose turn it is, if its work was begun before."""
        self.not_ahead: str | None = None
        """Why no batch is begun before its turn any more."""

    def detections(
        self, prediction: Tensor, what: Asked, size: Sequence[int], pictures: Sequence[np.ndarray]
    ) -> Tensor:
        """(images, most + 1, 6) as `fixed.fixed_nms` has it, in pixels of the pictures, in memory of its own; nothing waits for the GPU.

        Args:
            prediction: (images, 4 + classes, anchors), or (images, boxes, 6) of a head that suppresses by itself.
            size: (height, width) of the batch.
        """
        if not (self.in_kernels and in_kernels.serve(prediction, what)):
            answer = self.suppress(prediction, what).clone()  # the original may be a graph's
            scale(answer[:, :-1], size, pictures)
            return answer
        is_one_size = len({picture.shape[:2] for picture in pictures}) == 1
        placing = placing_of(size, pictures[0].shape) if is_one_size else None
        answer = in_kernels.suppressed(prediction, what, self.suppression.wanted(prediction, what), placing)
        if placing is None:
            scale(answer[:, :-1], size, pictures)
        return answer


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
        # Ultralytics' own way would run a first batch on a GPU twice, and import torchvision, for seconds; on a CPU most formats have nothing else
        # to warm up (nn/autobackend.py:367).
        is_warm = self.device.type == "cpu" and self.model.format not in WARMED_UP_ON_A_CPU
        self.done_warmup = self.done_warmup or self.fast is not None or is_warm
        if self.fast and takes_channels_last(self.model, self.args):
            network.lay_out(self.model, torch.channels_last)

    def setup_source(self, source: Any, stride: int | None = None) -> None:
        asked_px = self.args.imgsz
        with put_off("torchvision"):  # which it imports for its suppression
            super().setup_source(source, stride)
        self._say_the_size(asked_px)
        if self.fast is None:
            return
        # A method of this object would keep it as it keeps the source, and the graphs with both until Python looks for cycles.
        this = weakref.ref(self)
        self.dataset = read_ahead(self.dataset, partial(_letterboxed, this))
        if isinstance(self.dataset, ReadAhead) and settings.current().predict_ahead:
            self.dataset.launch = partial(_launched, this)

    def _say_the_size(self, asked_px: int | Sequence[int]) -> None:
        """A file of one size is run at that, whatever `imgsz` says (engine/predictor.py:298)."""
        asked, taken = (
            "x".join(map(str, (size, size) if isinstance(size, int) else size)) for size in (asked_px, self.args.imgsz)
        )
        if taken != asked:
            name = self.args.model
            say_once(f"size {name}", f"predict: at imgsz={taken}, the only size that {name} takes, and not {asked}")

    def preprocess(self, im: Tensor | list[np.ndarray]) -> Tensor:
        """(n, channels, height, width) of a batch's pictures: ultralytics' numbers, from one copy that nobody waits for."""
        if self.fast is not None and (begun := self._begun(im)) is not None:
            timing.counts(*begun.marks[:2])
            return begun.im
        if self.fast is None or isinstance(im, Tensor) or not self._takes(im):
            return super().preprocess(im)
        # Prepared before that event, in which a callback may have painted over the pictures.
        ready = im.letterboxed if isinstance(im, Pictures) else None
        dtype = torch.float16 if self.model.fp16 else torch.float32
        if ready is None or self.is_heard("on_predict_batch_start"):
            if (made := self.fast.letterbox(self, im, dtype)) is not None:
                return made
            ready = self.pre_transform(im)
        is_gathered = isinstance(ready, Tensor)
        sent = ready.to(self.device, non_blocking=True, copy=True) if is_gathered else self.fast.staging.send(ready)
        return normalised(sent, dtype)

    def inference(self, im: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's predictions; a graph's are overwritten by the next batch's."""
        if self.fast is not None and self.fast.launched is not None and im is self.fast.launched.im:
            if not args and not kwargs:
                timing.counts(*self.fast.launched.marks[1:3])
                return [self.fast.launched.prediction]
            self.fast.not_ahead = "arguments for the network"
        asks_more = args or kwargs or self.args.augment or self.args.embed or self.args.visualize
        if self.fast is None or asks_more or self.fast.network.why_eager(im) is not None:
            return super().inference(im, *args, **kwargs)
        return [self.fast.network(im)]

    def postprocess(self, preds: Any, img: Tensor, orig_imgs: Any, **kwargs: Any) -> list[Results]:
        """The `Results` of a batch. Waits for the GPU, once."""
        if self.fast is None or getattr(self, "_feats", None) is not None or kwargs.keys() - {"iou"}:
            with nms_kernel.at_hand():
                return super().postprocess(preds, img, orig_imgs, **kwargs)
        prediction = _first(preds)
        if not isinstance(orig_imgs, list):  # pictures came as a tensor
            orig_imgs = ops.convert_torch2numpy_batch(orig_imgs)[..., ::-1]
        what = self._asked(kwargs.get("iou"))
        begun, self.fast.launched = self.fast.launched, None
        if begun is not None and prediction is begun.prediction and what == begun.state[0]:
            answer, on_cpu = begun.answer, begun.wait()
            timing.counts(*begun.marks[2:])
        else:
            answer = self.fast.detections(prediction, what, img.shape[2:], orig_imgs)
            on_cpu = answer.cpu()  # waits for the GPU
        counts = fixed.counts_of(on_cpu)
        if counts is None:
            return self.construct_results(self.fast.suppression.by_waiting(prediction, what), img, orig_imgs)
        self.fast.copied, self.fast.on_cpu = [], on_cpu
        for i, (count, picture, path) in enumerate(zip(counts, orig_imgs, self.batch[0], strict=True)):
            boxes = answer[i, :count]
            result = Results(picture, path=path, names=self.model.names, boxes=boxes)
            self.fast.copied.append(Copied(result, boxes))
        return [copied.result for copied in self.fast.copied]

    def _asked(self, iou: float | None = None) -> Asked:
        """What is asked of a suppression; `iou` in the place of the argument's."""
        return asked(self.args, self.args.iou if iou is None else iou, bool(getattr(self.model, "end2end", False)))

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

    def is_heard(self, event: str) -> bool:
        """Whether an event has callbacks beside ultralytics' own, which do nothing; a tracker's count."""
        callbacks, theirs = self.callbacks.get(event, ()), default_callbacks[event]
        return callbacks != theirs and any(callback not in theirs for callback in callbacks)

    def _on_cpu(self, result: Results) -> Tensor | None:
        """Its rows; None if it did not come our way, or if somebody, a tracker say, has or may have put others in."""
        if self.fast is None or self.is_heard("on_predict_postprocess_end"):
            return None
        for i, one in enumerate(self.fast.copied):
            if one.result is result and one.boxes is result.boxes.data:
                return self.fast.on_cpu[i, : len(one.boxes)]
        return None

    def _takes(self, pictures: Sequence[np.ndarray]) -> bool:
        """Whether these are uint8 once they are letterboxed: what somebody's own `pre_transform` returns may be anything."""
        is_upstreams = type(self).pre_transform is BasePredictor.pre_transform and "pre_transform" not in vars(self)
        return is_upstreams and all(one.dtype == np.uint8 for one in pictures)

    def _prepared(self, pictures: list[np.ndarray]) -> Tensor | None:
        """Letterboxed and on their way; None where they are for ultralytics' `preprocess`."""
        assert self.fast is not None
        if not self._takes(pictures):
            return None
        return gathered(self.pre_transform(pictures), self.device)

    def _launch(self, pictures: Pictures) -> bool:
        """Whether the batch's work was put into the GPU's queue. It is, where nobody can tell; see ahead.py."""
        assert self.fast is not None
        reason = ahead.why_not(self, YOLOv12Predictor)
        if reason is None:
            pictures.launched, reason = ahead.attempt(partial(self._work_of, pictures))
            self.fast.not_ahead = reason
        if reason is not None:
            ahead.say_why_not(reason)
        return reason is None

    def _work_of(self, pictures: Pictures) -> Launched:
        """What `preprocess`, `inference` and `postprocess` do, up to where they would wait."""
        assert self.fast is not None
        state = self._asked(), self.fast.network.state()
        begun = timing.mark(self.device)
        im = self.preprocess(pictures)
        prepared = timing.mark(self.device)
        prediction = _first(self.inference(im)).clone()  # a graph's answer, over which it writes the next
        predicted = timing.mark(self.device)
        answer = self.fast.detections(prediction, state[0], im.shape[2:], pictures)
        on_host = ahead.to_host(answer)
        marks = begun, prepared, predicted, timing.mark(self.device)
        return Launched(state, im, prediction, answer, on_host, marks)

    def _begun(self, pictures: Any) -> Launched | None:
        """The work of this batch, whose turn it is, if it was begun and is still what is asked for."""
        assert self.fast is not None
        self.fast.launched = None
        if not isinstance(pictures, Pictures) or pictures.launched is None:
            return None
        launched, pictures.launched = pictures.launched, None
        if ahead.why_not(self, YOLOv12Predictor) is None and launched.state == (
            self._asked(),
            self.fast.network.state(),
        ):
            self.fast.launched = launched
        return self.fast.launched


def _letterboxed(predictor: weakref.ref[YOLOv12Predictor], pictures: list[np.ndarray]) -> Tensor | None:
    caller = predictor()
    assert caller is not None, "it is the predictor that asks for the next batch"
    return caller._prepared(pictures)


def _launched(predictor: weakref.ref[YOLOv12Predictor], pictures: Pictures) -> bool:
    caller = predictor()
    assert caller is not None, "it is the predictor that asks for the next batch"
    return caller._launch(pictures)


def _first(preds: Any) -> Tensor:
    """The predictions among what a network answers."""
    first: Tensor = preds[0] if isinstance(preds, (list, tuple)) else preds
    return first


def takes_channels_last(model: Any, args: Any) -> bool:
    """Whether weights are laid out as tensor cores, our attention and our kernels take them; else each convolution turns its input round.

    In half precision, whose rounding hides it, and where nobody asked for another layout. Float32 stays as ultralytics has it.
    """
    return model.format == "pt" and model.fp16 and not args.compile and args.channels_last is None
