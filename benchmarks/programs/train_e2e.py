# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training from files on disk, end to end: how many images a second go through once a run is under way.

Every side trains with `model.train` on the same JPEG files, which are drawn before its clock starts. The value is the median over the epochs
after the first of images by seconds from an epoch's start to its last batch, with the GPU waited for at both ends; validation is off. What the
first epoch took, which fills caches and starts workers, is in the note.

Stock has its defaults, `tuned` cuDNN's autotuner and no determinism, ours `data_pipeline=gpu`. In the cached row stock and tuned keep resized
pictures in memory (cache='ram'), ours maps its file of decoded pictures. The rows with few cores hold the whole process, its workers included, to
that many.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import system, training
from benchmarks.harness import Benchmark, Job, Measured, Row


class Case(NamedTuple):
    """What distinguishes a row."""

    model: str
    batch: int
    cached: bool = False
    cores: int | None = None
    """None: all there are."""

    def as_run(self, parameters: Mapping[str, Any]) -> Case:
        """With the batch of a run, which may be smaller than the claim's."""
        return self._replace(batch=max(self.batch // parameters["batch_divisor"], 1))


CASES = {
    "train_e2e_n_b256": Case("yolo12n.yaml", 256),
    "train_e2e_n_b256_cached": Case("yolo12n.yaml", 256, cached=True),
    "train_e2e_s_b128": Case("yolo12s.yaml", 128),
    "train_e2e_yolo11n_b256": Case("yolo11n.yaml", 256),
    "train_e2e_n_2cores": Case("yolo12n.yaml", 256, cores=2),
    "train_e2e_n_4cores": Case("yolo12n.yaml", 256, cores=4),
}
CLASSES, BOXES_PER_PICTURE = 80, 7  # COCO's, its mean
HEIGHT, WIDTH, QUALITY = 480, 640, 90
"""With noise of the strength below, a file takes about 150 kB, as COCO's do."""
NOISE = 17.5


def _note(case: Case, parameters: Mapping[str, Any]) -> str:
    parts = [f"{case.model.removesuffix('.yaml')}, batch {case.as_run(parameters).batch}, steady images a second"]
    parts += [f"{parameters['pictures']:,} JPEG files at {parameters['imgsz']} px"]
    parts += ["each side's best cache of decoded pictures"] if case.cached else ["no cache of decoded pictures"]
    return ", ".join(parts + ([f"{case.cores} CPU cores"] if case.cores else []))


ROWS = tuple(Row(name, "img/s", "higher", partial(_note, case)) for name, case in CASES.items())


def run_side(job: Job) -> Measured:
    """One training for each row."""
    import torch

    measured = Measured(declared={})
    for name in job.rows:
        try:
            with _held_to(CASES[name].cores):
                rate, note, declared = _train(CASES[name], job)
        except torch.OutOfMemoryError as error:
            measured.failed[name] = f"out of memory: {str(error).splitlines()[0]}"
        else:
            measured.values[name], measured.notes[name] = rate, note
            measured.declared = measured.declared or declared
        job.tell(measured)
        gc.collect()  # the trainer before is full of cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return measured


def _train(case: Case, job: Job) -> tuple[float, str, dict[str, Any]]:
    """(steady images a second, note, what the run declared)."""
    import torch

    parameters, case = job.parameters, case.as_run(job.parameters)
    workers = min(parameters["workers"], case.cores or parameters["workers"])
    watch, clock = training.Watch(job), EpochClock(parameters["device"] != "cpu")
    model = training.yolo_class(job.side)(case.model)
    watch.attach(model)
    clock.attach(model)
    ours = {"data_pipeline": "gpu"} if job.side == "ours" else {}
    torch.backends.cudnn.benchmark = job.side == "tuned"
    with training.kept_peak() as peak:
        model.train(
            data=training.data_yaml(job.scratch),
            project=str(job.scratch / "runs"),
            optimizer="SGD",
            seed=0,
            amp=parameters["amp"] if parameters["device"] != "cpu" else False,
            batch=case.batch,
            workers=workers,
            cache="ram" if case.cached else False,
            deterministic=job.side != "tuned",
            close_mosaic=0,
            val=False,
            plots=False,
            **{key: parameters[key] for key in ("epochs", "imgsz", "device")},
            **ours,
        )
    first_s, *further_s = clock.epochs_s
    note = f"first epoch {parameters['pictures'] / first_s:.0f} img/s; {len(further_s)} further epochs; {peak.words()}"
    return parameters["pictures"] / median(further_s), note, watch.declared


class EpochClock:
    """Callbacks that note how long the batches of each epoch took, the GPU's work included."""

    def __init__(self, on_gpu: bool) -> None:
        self.epochs_s: list[float] = []
        self._on_gpu = on_gpu
        self._started_s = 0.0

    def attach(self, model: Any) -> None:
        """Register on an ultralytics model, before `train`."""
        model.add_callback("on_train_epoch_start", self._start)
        model.add_callback("on_train_epoch_end", self._end)

    def _start(self, trainer: Any) -> None:
        self._started_s = self._now_s()

    def _end(self, trainer: Any) -> None:
        self.epochs_s.append(self._now_s() - self._started_s)

    def _now_s(self) -> float:
        import torch

        if self._on_gpu:
            torch.cuda.synchronize()
        return time.monotonic()


@contextmanager
def _held_to(cores: int | None) -> Iterator[None]:
    """Let this process, and those that it starts, run on so many cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """Draw the pictures once for all sides, and give this side links to them and labels of its own, for a scan and caches of its own."""
    pictures = Path(tempfile.gettempdir()) / f"yolov12-train-e2e-{parameters['pictures']}"
    if not (pictures / "whole").exists():
        pictures.mkdir(exist_ok=True)
        with ThreadPoolExecutor(system.cores()) as pool:
            list(pool.map(lambda number: _draw(pictures / f"{number}.jpg", number), range(parameters["pictures"])))
        (pictures / "whole").touch()
    data = scratch / "data"
    for kind in ("images", "labels"):
        (data / kind / "train").mkdir(parents=True)
    for number in range(parameters["pictures"]):
        (data / "images" / "train" / f"{number}.jpg").symlink_to(pictures / f"{number}.jpg")
        (data / "labels" / "train" / f"{number}.txt").write_text(_labels(number))
    # The final evaluation, which no side can leave out, takes a few pictures.
    (data / "val.txt").write_text("".join(f"./images/train/{number}.jpg\n" for number in range(8)))
    names = "".join(f"  {index}: class {index}\n" for index in range(CLASSES))
    (data / "data.yaml").write_text(f"train: images/train\nval: val.txt\nnames:\n{names}")
    training.prepare_fonts(scratch)


def _draw(file: Path, number: int) -> None:
    """Smooth colours and noise: as large a file, and as slow to decode, as a photo."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noisy = smooth + rng.normal(0, NOISE, smooth.shape).astype(np.float32)
    picture = np.clip(noisy, 0, 255).astype(np.uint8)
    file.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())


def _labels(number: int) -> str:
    import numpy as np

    rng = np.random.default_rng([number, 1])
    sides = 0.03 + 0.3 * rng.random((BOXES_PER_PICTURE, 2)) ** 2
    centres = sides / 2 + rng.random((BOXES_PER_PICTURE, 2)) * (1 - sides)
    rows = zip(rng.integers(CLASSES, size=BOXES_PER_PICTURE), centres, sides, strict=True)
    return "".join(f"{cls} {x:.5f} {y:.5f} {w:.5f} {h:.5f}\n" for cls, (x, y), (w, h) in rows)


BENCHMARK = Benchmark(
    name="train_e2e",
    claim="training on 10,000 JPEG files of 640x480 at 640 px, from the disk to the update, SGD, bf16",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("stock", "tuned", "ours"),
    parameters={
        "pictures": 10_000,
        "epochs": 3,
        "imgsz": 640,
        "amp": "bf16",
        "workers": system.cores(),
        "device": "0",
        "batch_divisor": 1,
    },
    prepare=prepare,
    timeout_s=1500,
)
