# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection validator: ultralytics' loop, files, callbacks and numbers, with a batch scored as a whole.

ultralytics works through NMS, matching and the confusion matrix image by image and waits for the GPU several times in each. Here a batch
goes through NMS together (scoring/suppression.py), its statistics stay on the device, and the whole set is matched at the end
(scoring/statistics.py). What needs every image by itself, `visualize=True` and `save_json=True` on a data set that is neither COCO nor LVIS,
takes ultralytics' way through statistics. A `.pt` file on a GPU answers by CUDA graphs (network.py), with its weights channels_last, as tensor
cores take them; within a training the model is the trainer's, and runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import ultralytics.engine.validator as upstream_validator
import ultralytics.models.yolo.detect.val as upstream_detect
import ultralytics.utils.metrics as upstream_metrics
from torch import Tensor
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import RANK, ops

from yolov12.distributed import world
from yolov12.engine import backend
from yolov12.engine.network import Network, lay_out, parts_of, pool_of, predictions_of
from yolov12.engine.not_yet import put_off
from yolov12.engine.one_pass import once
from yolov12.engine.plots import Plots
from yolov12.engine.scoring import suppression, timing
from yolov12.engine.scoring.average_precision import ap_per_class
from yolov12.engine.scoring.statistics import Collected, Detections, Targets
from yolov12.log import warn
from yolov12.memory.failure import again
from yolov12.seams import Seam, replaced

SEAMS = (
    # Replaced.
    Seam("engine/validator.py", 115, "ultralytics.engine.validator.BaseValidator.__init__", "4749dc9b34cd"),
    Seam("engine/validator.py", 151, "ultralytics.engine.validator.BaseValidator.__call__", "29da273b2118"),
    Seam(
        "models/yolo/detect/val.py",
        112,
        "ultralytics.models.yolo.detect.val.DetectionValidator.init_metrics",
        "5bb941fec1a6",
    ),
    Seam(
        "models/yolo/detect/val.py",
        159,
        "ultralytics.models.yolo.detect.val.DetectionValidator.postprocess",
        "0fcb34c90973",
    ),
    Seam(
        "models/yolo/detect/val.py",
        222,
        "ultralytics.models.yolo.detect.val.DetectionValidator.update_metrics",
        "c8043746aafa",
    ),
    Seam(
        "models/yolo/detect/val.py",
        311,
        "ultralytics.models.yolo.detect.val.DetectionValidator.gather_stats",
        "1ef6038776cd",
    ),
    Seam(
        "models/yolo/detect/val.py",
        344,
        "ultralytics.models.yolo.detect.val.DetectionValidator.get_stats",
        "ad64420cbd7c",
    ),
    Seam(
        "models/yolo/detect/val.py",
        411,
        "ultralytics.models.yolo.detect.val.DetectionValidator.get_dataloader",
        "5d9aea8adc6f",
    ),
    Seam("utils/ops.py", 20, "ultralytics.utils.ops.Profile", "db37bfd51aaa"),
    Seam("utils/metrics.py", 795, "ultralytics.utils.metrics.ap_per_class", "a1f408ef8cd3"),
    # Followed rule by rule.
    Seam(
        "models/yolo/detect/val.py",
        182,
        "ultralytics.models.yolo.detect.val.DetectionValidator._prepare_batch",
        "90fc7a34a69b",
    ),
    Seam(
        "models/yolo/detect/val.py",
        379,
        "ultralytics.models.yolo.detect.val.DetectionValidator._process_batch",
        "77f09748fa62",
    ),
    Seam("utils/nms.py", 13, "ultralytics.utils.nms.non_max_suppression", "51cdbaecdb06"),
    Seam("engine/validator.py", 321, "ultralytics.engine.validator.BaseValidator.match_predictions", "62abff70da46"),
    Seam("utils/metrics.py", 85, "ultralytics.utils.metrics.box_iou", "d700967cd653"),
    Seam("utils/metrics.py", 771, "ultralytics.utils.metrics.compute_ap", "11859baa3ac9"),
    Seam("utils/metrics.py", 407, "ultralytics.utils.metrics.ConfusionMatrix.process_batch", "693be84a19ad"),
    Seam("utils/metrics.py", 1140, "ultralytics.utils.metrics.DetMetrics.update_stats", "5e527f9f9e2d"),
    Seam("utils/metrics.py", 1151, "ultralytics.utils.metrics.DetMetrics.process", "5ed51f42854e"),
    Seam("utils/metrics.py", 1064, "ultralytics.utils.metrics.Metric.update_image_metrics", "73b97c3d76fb"),
)


class YOLOv12Validator(DetectionValidator):
    """Validates any detection model of ultralytics: same arguments, callbacks, files and numbers.

    Until the last batch, `metrics.stats` and the confusion matrix are empty where ultralytics' grow with each batch.
    """

    # Set by ultralytics; declared because mypy sees only our assignments.
    device: torch.device
    seen: int
    save_dir: Path
    end2end: bool
    network: Network | None = None
    """Of this validation, where it runs by graphs."""
    own_loader: Any = None
    """Which this validator has made: it takes the same one when it is called again."""
    collected: Collected | None = None
    """This validation's statistics on the device; None where each image is scored by itself, and once they are settled."""
    drawing: Plots | None = None
    """Of the run that this validator belongs to, or of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # It imports torchvision for its NMS, and torchvision all of torch's compiler, for seconds. Our NMS needs neither.
        with put_off("torchvision"):
            super().__init__(*args, **kwargs)

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
        if self.drawing is None:
            with Plots() as self.drawing:
                self.drawing.begin(bool(self.args.plots))
                try:
                    return self._run(trainer, model, **kwargs)
                finally:
                    self.drawing = None
        return self._run(trainer, model, **kwargs)

    def _run(self, trainer: Any, model: Any, **kwargs: Any) -> Any:
        try:
            load = partial(backend.load, upstream_validator.AutoBackend)
            with replaced(upstream_validator, Profile=timing.profile, AutoBackend=load):
                return super().__call__(trainer, model, **kwargs)
        finally:
            if self.network is not None:
                self.network.drop()
                self.network = None
            if self.own_loader is not None:
                self.own_loader.reset()

    def get_dataloader(self, dataset_path: str, batch_size: int) -> Any:
        """As ultralytics' (models/yolo/detect/val.py:431), whose batches are page-locked in a training only; other uploads are waited for."""
        if self.device.type != "cuda":
            return super().get_dataloader(dataset_path, batch_size)
        build = upstream_detect.build_dataloader

        def page_locked(*args: Any, **kwargs: Any) -> Any:
            return build(*args, **{**kwargs, "pin_memory": True})

        with replaced(upstream_detect, build_dataloader=page_locked):
            self.own_loader = super().get_dataloader(dataset_path, batch_size)
        once(self.own_loader)
        return self.own_loader

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)
        if not self.training and getattr(model, "format", None) == "pt":
            self._run_by_graphs(model)
        needs_each_image = self.is_custom_json or (self.args.plots and self.args.visualize)
        self.collected = None if needs_each_image else Collected(self.nc if self.args.plots else None)

    def postprocess(self, preds: Any) -> list[dict[str, Tensor]]:
        """Detections of each image; see `suppression.batched_nms`."""
        prediction = preds[0] if isinstance(preds, (list, tuple)) else preds
        args = self.args
        if self.end2end or prediction.shape[-1] == 6:  # as upstream tells (utils/nms.py:72)
            rows, counts = suppression.end_to_end(prediction, args.conf, args.max_det)
        else:
            agnostic = args.single_cls or args.agnostic_nms
            rows, counts = suppression.batched_nms(
                prediction, args.conf, args.iou, agnostic=agnostic, max_det=args.max_det
            )
        return [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]} for x in rows.split(counts)]

    def update_metrics(self, preds: list[dict[str, Tensor]], batch: dict[str, Any]) -> None:
        """Collect a batch's statistics, and write what is asked for of its images."""
        collected = self.collected
        if collected is None:
            super().update_metrics(preds, batch)
            return
        preds = [self._prepare_pred(pred) for pred in preds]

        def collect() -> Detections:
            boxes, conf, cls = (torch.cat([pred[key] for pred in preds]) for key in ("bboxes", "conf", "cls"))
            found = Detections(boxes, conf, cls, [len(pred["conf"]) for pred in preds])
            collected.add(found, self._targets(batch), batch["im_file"], float(self.iouv.min()))
            return found

        found = again(collect, warn)
        self.seen += len(preds)
        if self.args.save_json or self.args.save_txt:
            self._write(found, batch)

    def settle(self) -> None:
        """Turn what was collected into ultralytics' statistics. Does nothing the second time.

        Before ranks vote on whether to gather: this is the last place where one of them may fail alone.
        """
        if self.collected is None:
            return
        collected, self.collected = self.collected, None
        if not collected.files:  # a rank without images
            return
        settled = again(lambda: collected.settle(self.iouv.cpu().numpy(), self.args.conf), warn)
        for key, values in self.metrics.stats.items():
            values.append(getattr(settled, key))
        self.metrics.box.image_metrics.update(collected.per_image(settled))
        if settled.confusion is not None:
            self.confusion_matrix.matrix += settled.confusion

    def gather_stats(self) -> None:
        """Settle, then gather over ranks as ultralytics does."""
        self.settle()
        super().gather_stats()
        if RANK > 0:
            self._meet()

    def get_stats(self) -> dict[str, Any]:
        with replaced(upstream_metrics, ap_per_class=ap_per_class), self._plots_begun():
            return super().get_stats()

    def finalize_metrics(self) -> None:
        with self._plots_begun():
            super().finalize_metrics()

    def plot_val_samples(self, batch: dict[str, Any], ni: int) -> None:
        with self._pictures_begun():
            super().plot_val_samples(batch, ni)

    def plot_predictions(self, batch: dict[str, Any], preds: list[dict[str, Tensor]], ni: int, **kwargs: Any) -> None:
        with self._pictures_begun():
            super().plot_predictions(batch, preds, ni, **kwargs)

    def run_callbacks(self, event: str) -> None:
        """As ultralytics', once the plots are there that one of them may look for."""
        if self.drawing is not None:
            self.drawing.wait_for(self.callbacks.get(event, ()))
        super().run_callbacks(event)
        if event == "on_val_end":  # of rank 0, which alone makes metrics
            self._meet()

    def _meet(self) -> None:
        """Wait for rank 0's metrics and their callbacks, however long they take: the losses, which are summed next, have a timeout."""
        if self.training:
            world.meet()

    def _plots_begun(self) -> AbstractContextManager[None]:
        return nullcontext() if self.drawing is None else self.drawing.of_metrics()

    def _pictures_begun(self) -> AbstractContextManager[None]:
        return nullcontext() if self.drawing is None else self.drawing.of_batches()

    def _run_by_graphs(self, model: Any) -> None:
        """Have an AutoBackend answer by graphs from now on (engine/validator.py:263)."""
        pool = pool_of(self.device)
        if pool is None:
            return
        self.network = Network(model, pool, "val", self.args.compile)
        if self.network.why_never() is None and model.format == "pt" and self.args.channels_last is None:
            lay_out(model, torch.channels_last)  # a copy of the caller's (engine/validator.py:371)
        forward = model.forward
        cut_before: set[torch.Size] = set()

        def by_graphs(img: Tensor, augment: bool = False) -> Any:
            network = self.network
            if network is None or augment or network.why_never() is not None:
                return forward(img, augment=augment)

            if network.why_eager(img) is None:
                # A batch that is cut for want of memory calls again before it looks at the first answer.
                return [network(img).clone()]
            comes_again = img.shape in cut_before  # else its parts would be captured for one batch alone
            cut_before.add(img.shape)

            def predict(part: Tensor) -> Tensor:
                if comes_again and network.why_eager(part) is None:
                    return network(part)
                return predictions_of(forward(part))

            return [_in_parts(predict, parts_of(img))]

        model.forward = by_graphs

    def _targets(self, batch: dict[str, Any]) -> Targets:
        """The labels of a batch, image by image, in its pixels (models/yolo/detect/val.py:_prepare_batch)."""
        order = batch["batch_idx"].argsort(stable=True)
        image = batch["batch_idx"][order].contiguous()
        edges = torch.searchsorted(image, torch.arange(len(batch["img"]) + 1, device=image.device, dtype=image.dtype))
        height, width = batch["img"].shape[2:]
        size = torch.tensor([width, height, width, height], device=self.device)
        boxes = ops.xywh2xyxy(batch["bboxes"][order]) * size
        return Targets(boxes, batch["cls"][order].squeeze(-1), edges.diff().tolist())

    def _write(self, found: Detections, batch: dict[str, Any]) -> None:
        """`predictions.json` and `labels/*.txt` of a batch, by ultralytics' functions for one image, from copies on the CPU."""
        columns = zip(*(column.cpu().split(found.counts) for column in found[:3]), strict=True)
        for i, (boxes, conf, cls) in enumerate(columns):
            if not len(conf):
                continue
            about = {key: batch[key][i] for key in ("ori_shape", "ratio_pad", "im_file")}
            about["imgsz"] = batch["img"].shape[2:]
            scaled = self.scale_preds({"bboxes": boxes, "conf": conf, "cls": cls}, about)
            if self.args.save_json:
                self.pred_to_json(scaled, about)
            if self.args.save_txt:
                # a/1.jpg and b/1.jpg become a_1.txt and b_1.txt, as upstream names them
                name = "_".join(Path(about["im_file"]).relative_to(self.label_root).with_suffix("").parts)
                file = self.save_dir / "labels" / f"{name}.txt"
                self.save_one_txt(scaled, self.args.save_conf, about["ori_shape"], file)


def _in_parts(predict: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> Tensor:
    """The predictions of a batch, part by part: a network keeps what lies between its layers for no more than a part.

    Args:
        predict: its answer may be written over by the next.
    """
    whole, begin = torch.empty(0), 0
    for part in parts:
        made = predict(part)
        if not begin:
            whole = made.new_empty((sum(map(len, parts)), *made.shape[1:]))
        whole[begin : begin + len(part)] = made
        begin += len(part)
    return whole
