# SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole training run on real photos: how long a user waits, and what accuracy comes out."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from benchmarks import system, training
from benchmarks.harness import Benchmark, Job, Measured, Row

ROWS = (
    Row(
        "bccd_wall", "s", "lower", "process start to the end of training, with validation each epoch and the final one"
    ),
    Row("bccd_first_epoch", "s", "lower", "process start to the end of the first epoch and its validation"),
    Row("bccd_epoch", "s", "lower", "median of the further epochs, each with validation and saving"),
    Row("bccd_final", "s", "lower", "from the last epoch's end to the end of training: final evaluation and plots"),
    Row("bccd_map50_95", "mAP", "higher", "of the final validation"),
    Row("bccd_map50", "mAP", "higher", "of the final validation"),
)


def run_side(job: Job) -> Measured:
    """Train from the model's yaml with the arguments of the claim; all others stay each side's defaults."""
    parameters = job.parameters
    watch = training.Watch(job)
    yolo = training.yolo_class(job.side)
    imported_s = watch.elapsed_s()
    model = yolo(parameters["model"])
    watch.attach(model)
    with training.kept_peak() as peak:
        box = model.train(
            data=training.data_yaml(job.scratch),
            project=str(job.scratch / "runs"),
            optimizer="SGD",
            lr0=0.01,
            seed=0,
            amp=parameters["amp"] if parameters["device"] != "cpu" else False,
            **{key: parameters[key] for key in ("epochs", "batch", "imgsz", "workers", "device", "fraction")},
        ).box
    measured = phases(watch, imported_s, watch.elapsed_s())
    measured.values |= {"bccd_map50_95": float(box.map), "bccd_map50": float(box.map50)}
    measured.notes["bccd_wall"] = peak.words()
    return measured


def phases(watch: training.Watch, imported_s: float, wall_s: float) -> Measured:
    """Where the wall clock went, in seconds: the rows of time, so that a difference between sides can be located."""
    first, *further = watch.epochs
    measured = Measured(
        declared=watch.declared,
        values={"bccd_wall": wall_s, "bccd_first_epoch": first.end_s, "bccd_final": wall_s - watch.epochs[-1].end_s},
        notes={
            "bccd_first_epoch": f"YOLO imported at {imported_s:.1f} s, first batch asked for at {watch.training_starts_s:.1f} s, "
            f"last batch through at {first.last_batch_s:.1f} s"
        },
    )
    if not further:
        measured.failed["bccd_epoch"] = "one epoch has no further ones"
        return measured
    measured.values["bccd_epoch"] = median(after.end_s - before.end_s for before, after in pairwise(watch.epochs))
    tail_s = median(epoch.end_s - epoch.last_batch_s for epoch in further)
    measured.notes["bccd_epoch"] = f"{tail_s:.2f} s of it after the last batch"
    return measured


BENCHMARK = Benchmark(
    name="bccd_wall",
    claim="yolov12n from scratch on BCCD (292 photos, 3 classes), SGD lr0 0.01: wall clock and accuracy",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    parameters=training.RECIPE
    | {
        "epochs": 100,
        "workers": system.cores(),
        "fraction": 1.0,
    },
    prepare=training.prepare_dataset,
    warmup={"epochs": 1, "fraction": 0.12},
    shares_warmup=True,  # it reads CUDA's, cuDNN's and torch's libraries; our own few files are left to our side's clock
    repeats=1,
    timeout_s=900,
)
