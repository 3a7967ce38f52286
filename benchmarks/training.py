# SPDX-License-Identifier: AGPL-3.0-or-later
"""What benchmarks that call `model.train` share: a fresh copy of the data, a font for the plots, and what the run declares."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import BenchmarkError, Job

BCCD = os.environ.get("YOLOV12_BCCD", "../shared/data/bccd")
"""Folder of the BCCD data set: bccd.yaml, images/, labels/."""


RECIPE: dict[str, Any] = {
    "data": BCCD,
    "model": "yolo12n.yaml",
    "batch": 32,
    "imgsz": 640,
    "amp": "bf16",
    "device": "0",
}
"""Parameters of the programs that train on it."""


def yolo_class(side: str) -> Any:
    """`YOLO` of ultralytics for stock and tuned, ours for ours."""
    return importlib.import_module("yolov12" if side == "ours" else "ultralytics").YOLO


def require_dataset(parameters: Mapping[str, Any], scratch: Path) -> None:
    """`prepare` of programs whose runs copy the data set later, each for itself.

    Raises:
        BenchmarkError: the folder `parameters["data"]` has no data set.
    """
    source = Path(parameters["data"])
    if not list(source.glob("*.yaml")):
        raise BenchmarkError(f"no data yaml in {source}: give the folder with YOLOV12_BCCD or --set data=FOLDER")


def prepare_dataset(parameters: Mapping[str, Any], scratch: Path) -> None:
    """Copy the folder `parameters["data"]`, so that each run scans its labels as a first run does."""
    require_dataset(parameters, scratch)
    source = Path(parameters["data"])
    copy_dataset(source, scratch / "data")
    prepare_fonts(scratch)


def copy_dataset(source: Path, target: Path) -> None:
    """Copy files without their modes, so that the copy of a read-only data set takes label caches; leave its caches behind."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.suffix.endswith("cache"):  # stock's .cache, our .yolov12-cache
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def prepare_fonts(scratch: Path) -> None:
    """Put a font where ultralytics looks first (utils/checks.py:436): without one, plots wait for a download."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return
    font = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    folder = scratch / "config" / "Ultralytics"
    folder.mkdir(parents=True)
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(font, folder / name)


def data_yaml(scratch: Path) -> str:
    """The data yaml that `prepare_dataset` copied."""
    return str(next((scratch / "data").glob("*.yaml")))


class Epoch(NamedTuple):
    """When one epoch's last batch was through, and when it ended, with validation and saving."""

    last_batch_s: float
    end_s: float


class Watch:
    """Callbacks that note when the parts of a training run end and what it really ran with, read while it trains.

    All times are seconds since the process was started, as the CPU sees them: nothing waits for the GPU. An epoch's end is not taken from
    `on_fit_epoch_end`: there ours waits until the checkpoint is on disk, which a script's callback may want to read.
    """

    def __init__(self, job: Job) -> None:
        self.started_s = job.started_s
        self.training_starts_s = 0.0
        """When everything is built and the first batch is asked for."""
        self.epochs: list[Epoch] = []
        self._last_batch_s: float | None = None
        self._validations = 0
        """Since the last batch."""
        self.declared: dict[str, Any] = {}

    def attach(self, model: Any) -> None:
        """Register on an ultralytics model, before `train`."""
        model.add_callback("on_train_start", self._note_start)
        model.add_callback("on_train_epoch_start", self._begin_epoch)
        model.add_callback("on_train_epoch_end", self._note_last_batch)
        model.add_callback("on_val_start", self._note_validation)

    def elapsed_s(self) -> float:
        """Since the process was started."""
        return time.monotonic() - self.started_s

    def _note_start(self, trainer: Any) -> None:
        self.training_starts_s = self.elapsed_s()

    def _note_last_batch(self, trainer: Any) -> None:
        self._last_batch_s, self._validations = self.elapsed_s(), 0

    def _begin_epoch(self, trainer: Any) -> None:
        self._end_epoch()
        self._read(trainer)

    def _note_validation(self, validator: Any) -> None:
        self._validations += 1
        if self._validations > 1:  # the final one, of the best checkpoint
            self._end_epoch()

    def _end_epoch(self) -> None:
        if self._last_batch_s is not None:
            self.epochs.append(Epoch(self._last_batch_s, self.elapsed_s()))
            self._last_batch_s = None

    def _read(self, trainer: Any) -> None:
        import torch

        if self.declared:
            return
        args = trainer.args
        self.declared = {
            "dtype": f"{'autocast ' + str(args.amp) if trainer.amp else 'fp32'}",
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "optimizer": type(trainer.optimizer).__name__,
            "workers": trainer.train_loader.num_workers,
            "cache": args.cache,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "compile": args.compile,
            "batch": trainer.batch_size,
            "accumulate": trainer.accumulate,
            "imgsz": args.imgsz,
            "seed": args.seed,
        }


class Peak:
    """Most that torch's allocator gave out and held, in bytes; 0 without a GPU."""

    def __init__(self) -> None:
        self.allocated = self.reserved = 0

    def look(self) -> None:
        """Take in what the allocator remembers."""
        import torch

        if torch.cuda.is_available():
            self.allocated = max(self.allocated, torch.cuda.max_memory_allocated())
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())

    def words(self) -> str:
        """For a row's note."""
        return (
            f"peak {self.reserved / 2**30:.2f} GiB reserved, {self.allocated / 2**30:.2f} in use"
            if self.reserved
            else "no GPU"
        )


@contextmanager
def kept_peak() -> Iterator[Peak]:
    """The peaks of what runs inside, from what is in use at its beginning.

    The allocator has one memory of them, and a program that is measured may set it back: ours does so where a phase of a step begins.
    """
    import torch

    peak, reset = Peak(), torch.cuda.reset_peak_memory_stats

    def look_and_reset(*arguments: Any) -> None:
        peak.look()
        reset(*arguments)

    if torch.cuda.is_available():
        reset()
    torch.cuda.reset_peak_memory_stats = look_and_reset
    try:
        yield peak
    finally:
        torch.cuda.reset_peak_memory_stats = reset
        peak.look()
