# SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole training run on real photos: how long a user waits, and what accuracy comes out."""

from __future__ import annotations

import time

from benchmarks import system, training
from benchmarks.harness import Benchmark, Job, Measured, Row

ROWS = (
    Row(
        "bccd_wall", "s", "lower", "process start to the end of training, with validation each epoch and the final one"
    ),
    Row("bccd_map50_95", "mAP", "higher", "of the final validation"),
    Row("bccd_map50", "mAP", "higher", "of the final validation"),
)


def run_side(job: Job) -> Measured:
    """Train from the model's yaml with the arguments of the claim; all others stay each side's defaults."""
    parameters = job.parameters
    watch = training.Watch(job)
    model = training.yolo_class(job.side)(parameters["model"])
    watch.attach(model)
    box = model.train(
        data=training.data_yaml(job.scratch),
        project=str(job.scratch / "runs"),
        optimizer="SGD",
        lr0=0.01,
        seed=0,
        amp=parameters["amp"] if parameters["device"] != "cpu" else False,
        **{key: parameters[key] for key in ("epochs", "batch", "imgsz", "workers", "device", "fraction")},
    ).box
    wall_s = time.monotonic() - job.started_s
    peak_gib = training.peak_gib()
    memory = f", peak {peak_gib:.1f} GiB reserved" if peak_gib else ""
    return Measured(
        declared=watch.declared,
        values={"bccd_wall": wall_s, "bccd_map50_95": float(box.map), "bccd_map50": float(box.map50)},
        notes={"bccd_wall": f"first epoch ended at {watch.epoch_ends_s[0]:.1f} s{memory}"},
    )


BENCHMARK = Benchmark(
    name="bccd_wall",
    claim="yolov12n from scratch on BCCD (292 photos, 3 classes), SGD lr0 0.01: wall clock and accuracy",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    parameters={
        "data": training.BCCD,
        "model": "yolo12n.yaml",
        "epochs": 100,
        "batch": 32,
        "imgsz": 640,
        "amp": "bf16",
        "workers": system.cores(),
        "device": "0",
        "fraction": 1.0,
    },
    prepare=training.prepare_dataset,
    warmup={"epochs": 1, "fraction": 0.12},
    repeats=1,
    timeout_s=900,
)
