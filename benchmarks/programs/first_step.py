# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long somebody waits for the first step of a training: from the start of the process until the first update is done, the GPU waited for.

Cold: every cache that a side keeps, or a library for it, is empty. Warm: the same process once more, with what the first one left behind. The
disk's page cache can not be emptied from here. A discarded run of each side brings libraries into it, and compiled Python files onto the disk, so a
cold start here is that of a machine which has run the same program before, with another cache folder.

Each start is a process of its own. It ends itself right after the step, so what a side would only keep later in a run does not count as left behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import child, record, sides, system, training
from benchmarks.harness import Benchmark, Job, Measured, Row

ROWS = (
    Row(
        "first_step_cold",
        "s",
        "lower",
        "process start to the end of the first training step, every cache of its side's empty; the page cache can not be emptied, "
        "and has the libraries from a discarded run",
    ),
    Row("first_step_warm", "s", "lower", "the same process again, with the caches that the first one left"),
)
CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "CUDA_CACHE_PATH": "cuda",
    "XDG_CACHE_HOME": "xdg",  # of torch, for kernels that it compiles
    "MPLCONFIGDIR": "matplotlib",  # its list of fonts
}
"""Folders below a run's own, beside those that `sides.environment` names for ultralytics and for us. Label caches lie with the copy of the data."""


def run_side(job: Job) -> Measured:
    """Start once, and again in the same folders if the warm row is asked for."""
    cold = _start_once(job)
    starts = {"first_step_cold": cold}
    if "first_step_warm" in job.rows:
        starts["first_step_warm"] = cold if cold.failure else _start_once(job)
    measured = Measured(declared=dict.fromkeys(record.DECLARED))
    for name, run in starts.items():
        if run.failure:
            measured.failed[name] = run.failure
        else:
            measured.values[name], measured.notes[name] = run.result["first_step_s"], run.result["note"]
            measured.declared = run.result["declared"]
    return measured


def _start_once(job: Job) -> child.Run:
    """One start, timed from before it."""
    caches = {name: str(job.scratch / "caches" / folder) for name, folder in CACHES.items()}
    environment = sides.environment(job.side, job.scratch, os.environ) | caches
    asked = {**job.parameters, "side": job.side, "started_s": time.monotonic()}
    run = child.finished(child.start("benchmarks.programs.first_step", asked, job.scratch, environment))
    print(*run.lines, sep="\n", file=sys.stderr)
    return run


def train(asked: dict[str, Any]) -> NoReturn:
    """Train from the model's yaml, as bccd_wall does, until `FirstStep` ends this process.

    Raises:
        RuntimeError: the training ended before that.
    """
    scratch = Path(asked["folder"])
    watch = training.Watch(Job(asked["side"], asked, (), scratch, asked["started_s"]))
    yolo = training.yolo_class(asked["side"])
    first_step = FirstStep(watch, asked["side"], scratch, imported_s=watch.elapsed_s())
    model = yolo(asked["model"])
    watch.attach(model)
    first_step.attach(model)
    model.train(
        data=training.data_yaml(scratch),
        project=str(scratch / "runs"),
        optimizer="SGD",
        lr0=0.01,
        seed=0,
        amp=asked["amp"] if asked["device"] != "cpu" else False,
        **{key: asked[key] for key in ("epochs", "batch", "imgsz", "workers", "device")},
    )
    raise RuntimeError("the training ended without an update of its weights")


class FirstStep:
    """Callbacks that note when the first batch is there and when the first update is done, and end the process then.

    Args:
        watch: of the same run.
        side: which it must have been.
        folder: for the result.
        imported_s: when `YOLO` was there, by the watch's clock.
    """

    def __init__(self, watch: training.Watch, side: str, folder: Path, imported_s: float) -> None:
        self.watch, self.side, self.folder, self.imported_s = watch, side, folder, imported_s
        self._first_batch_s: float | None = None

    def attach(self, model: Any) -> None:
        """Register on an ultralytics model, before `train`."""
        model.add_callback("on_train_batch_start", self._note_batch)
        model.add_callback("on_train_batch_end", self._note_step)

    def _note_batch(self, trainer: Any) -> None:
        if self._first_batch_s is None:
            self._first_batch_s = self.watch.elapsed_s()

    def _note_step(self, trainer: Any) -> None:
        import torch

        if not trainer.ema.updates:  # gradients are still being summed up
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        done_s = self.watch.elapsed_s()
        sides.check(self.side, sys.modules, sys.meta_path)
        note = (
            f"YOLO imported at {self.imported_s:.1f} s, first batch asked for at {self.watch.training_starts_s:.1f} s, "
            f"there at {self._first_batch_s:.1f} s, step done at {done_s:.1f} s"
        )
        child.write_result(self.folder, {"first_step_s": done_s, "note": note, "declared": self.watch.declared})
        end_at_once()


def end_at_once() -> NoReturn:
    """End this process and the workers of its loader, without winding anything down."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises when a worker goes
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


BENCHMARK = Benchmark(
    name="first_step",
    claim="yolov12n on BCCD, batch 32: from process start to the end of the first training step, with empty and with warm caches",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    parameters=training.RECIPE
    | {
        "epochs": 100,  # of which one step is made; as in bccd_wall
        "workers": system.cores(),
    },
    prepare=training.prepare_dataset,
    warmup={},
)


if __name__ == "__main__":
    child.answer(train)
