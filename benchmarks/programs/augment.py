# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training augmentation alone: decoded pictures in, a batch of uint8 and its labels out.

Stock is ultralytics' transforms and collate function in one process, which is what one worker of its loader does after decoding; the batch is
then still on the CPU. Ours draws and renders on the device, on which the pictures lie. Both get the same pictures and boxes.
Ours is the compiled kernels where the wheel `yolov12_kernels` is, else Triton's; with YOLOV12_KERNELS=0 torch's operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import timing
from benchmarks.harness import Benchmark, Job, Measured, Row

CASES: dict[str, dict[str, float]] = {
    "augment_defaults": {},
    "augment_mixed": {"mixup": 0.15, "cutmix": 0.15, "degrees": 10.0},
}
ROWS = (
    Row("augment_defaults", "img/s", "higher", "ultralytics' default hyper-parameters"),
    Row("augment_mixed", "img/s", "higher", "mixup and cutmix 0.15 each, rotation 10 degrees"),
)
BOXES_PER_IMAGE = 7  # COCO's mean


def run_side(job: Job) -> Measured:
    """Images per second of each case, over whole batches, the device's work included."""
    prepare = _stock if job.side == "stock" else _ours
    measured = Measured(declared=_declare(job))
    for name in job.rows:
        measured.values[name] = _images_per_s(prepare(job, CASES[name]), job)
    return measured


def _images_per_s(one_batch: Callable[[], Any], job: Job) -> float:
    import torch

    device, steps = job.parameters["device"], job.parameters["steps"]
    timing.warm(one_batch, device)
    started_s = time.perf_counter()
    for _ in range(steps):
        one_batch()
    if device == "cuda":
        torch.cuda.synchronize()
    return job.parameters["batch"] * steps / (time.perf_counter() - started_s)


def _pictures(job: Job) -> list[tuple[Any, Any]]:
    """(image, boxes) each: smooth colours with noise, 4:3 as most photographs, boxes xyxy in pixels."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    width = job.parameters["imgsz"]
    height = width * 3 // 4
    found = []
    for _ in range(job.parameters["pictures"]):
        coarse = rng.integers(0, 226, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = image // 2 + rng.integers(0, 30, image.shape, dtype=np.uint8)
        corners = np.sort(rng.uniform(0, 1, (BOXES_PER_IMAGE, 2, 2)), axis=1) * (width, height)
        found.append((image, corners.reshape(-1, 4).astype(np.float32)))
    return found


def _stock(job: Job, changes: dict[str, float]) -> Callable[[], Any]:
    import numpy as np
    from ultralytics.cfg import get_cfg
    from ultralytics.data.augment import Format
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.utils.instance import Instances

    pictures = _pictures(job)

    class InMemory:
        """As much of a YOLODataset as its transforms ask for, every picture decoded."""

        augment, rect, cache, format_class, imgsz = True, False, "ram", Format, job.parameters["imgsz"]
        use_segments = use_keypoints = use_obb = False
        data: dict[str, Any] = {}

        def __len__(self) -> int:
            return len(pictures)

        def get_image_and_label(self, index: int) -> dict[str, Any]:
            image, boxes = pictures[index]
            return {
                "img": image,
                "cls": np.zeros((len(boxes), 1), np.float32),
                "instances": Instances(boxes.copy(), bbox_format="xyxy", normalized=False),
                "im_file": str(index),
                "ori_shape": image.shape[:2],
                "resized_shape": image.shape[:2],
            }

    dataset, rng = InMemory(), np.random.default_rng(0)
    transforms = YOLODataset.build_transforms(dataset, get_cfg(overrides=changes))

    def one_batch() -> Any:
        indices = rng.integers(len(pictures), size=job.parameters["batch"])
        return YOLODataset.collate_fn([transforms(dataset.get_image_and_label(int(index))) for index in indices])

    return one_batch


def _ours(job: Job, changes: dict[str, float]) -> Callable[[], Any]:
    import numpy as np
    import torch
    from ultralytics.cfg import get_cfg

    from yolov12.data.augment import Hyperparameters, Source, draw, render

    device, count = job.parameters["device"], job.parameters["pictures"]
    classes = np.zeros(BOXES_PER_IMAGE, np.float32)
    sources = {
        index: Source(torch.from_numpy(image).to(device), classes, boxes)
        for index, (image, boxes) in enumerate(_pictures(job))
    }
    hyp = Hyperparameters.of(get_cfg(overrides=changes), job.parameters["imgsz"])
    rng = np.random.default_rng(0)

    def pick(rng: np.random.Generator, wanted: int) -> np.ndarray:
        return rng.integers(count, size=wanted)

    return lambda: render(draw(rng, pick(rng, job.parameters["batch"]), hyp, pick), sources, device)


def _declare(job: Job) -> dict[str, Any]:
    return {
        "dtype": "uint8",
        "deterministic": None,
        "optimizer": None,
        "workers": None,
        "cache": "every picture decoded",
        "imgsz": job.parameters["imgsz"],
        "batch": job.parameters["batch"],
    }


BENCHMARK = Benchmark(
    name="augment",
    claim="augmentation alone: one process of ultralytics' transforms, or ours on the device",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    parameters={"device": "cuda", "imgsz": 640, "batch": 256, "pictures": 512, "steps": 10},
)
