# SPDX-License-Identifier: AGPL-3.0-or-later
"""Validation of 5,000 pictures by `model.val()`: how long it takes, how busy the CPU is meanwhile, and that both sides find the same.

The weights come from a training by stock in a process of its own, once for all sides and before any clock starts: an untrained model has too few
or too many candidates for its NMS, and weights of two trainings would not find the same. 250 drawn pictures are copied until there are enough, since
only how many are decoded matters. What is measured is the second of two validations in one process; the first one scans the labels and warms kernels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import sides, system, training
from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Row
from benchmarks.record import DECLARED


def _note(parameters: Mapping[str, Any]) -> str:
    size = "{images:,} pictures of {imgsz} px, batch {batch}".format_map(parameters)
    return f"wall clock of the second `model.val()` of {size}, plots included"


ROWS = (
    Row("val_5000_n", "s", "lower", _note),
    Row("val_5000_n_no_plots", "s", "lower", "the same with plots=False, which has no confusion matrix"),
    Row("val_5000_n_map50_95", "mAP", "higher", "of the first row's validation"),
)
DRAWN = 250
WEIGHTS = "weights.pt"
TRAINING_LIMIT_S = 900
TRAIN = """
import sys
from ultralytics import YOLO
data, project, model, device, imgsz, batch, epochs, workers = sys.argv[1:]
YOLO(model).train(data=data, project=project, name="weights", device=device, imgsz=int(imgsz), batch=int(batch), epochs=int(epochs),
                  workers=int(workers), optimizer="SGD", plots=False, val=False, amp=False, seed=0, exist_ok=True)
"""


_trained: dict[str, bytes] = {}
"""Checkpoints that this process has had trained, by what was asked: each side's folder is prepared anew, and all of them get the same one."""


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """Draw pictures and copy those for validation under new names until there are enough; put the weights beside them."""
    from yolov12.data import synth

    wanted = parameters["images"]
    drawn = min(DRAWN, wanted)
    synth.write(scratch / "data", n_train=parameters["train_images"], n_val=drawn, imgsz=parameters["imgsz"], seed=0)
    training.prepare_fonts(scratch)
    asked = repr(sorted(parameters.items()))
    if asked not in _trained:
        _trained[asked] = trained(parameters, scratch)
    (scratch / WEIGHTS).write_bytes(_trained[asked])
    for kind in ("images", "labels"):
        originals = sorted((scratch / "data" / kind / "val").iterdir())
        for number in range(drawn, wanted):
            original = originals[number % len(originals)]
            shutil.copyfile(
                original, original.with_name(f"{original.stem}-{number // len(originals)}{original.suffix}")
            )


def trained(parameters: Mapping[str, Any], scratch: Path) -> bytes:
    """The checkpoint of a stock training, in a process of its own.

    Args:
        parameters: what is asked.
        scratch: holds the data set and fonts.

    Raises:
        BenchmarkError: it failed, or took too long.
    """
    names = ("model", "device", "imgsz", "train_batch", "epochs", "workers")
    arguments = [str(parameters[name]) for name in names]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = [sys.executable, "-c", TRAIN, training.data_yaml(scratch), folder, *arguments]
        environment = sides.environment("stock", scratch, os.environ)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=TRAINING_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the training of the weights took more than {TRAINING_LIMIT_S} s") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise BenchmarkError(f"the training of the weights failed: {last}")
        for cache in (scratch / "data/labels").glob("*.cache"):
            cache.unlink()  # stock's, which would spare its side the first scan
        return (Path(folder) / "weights" / "weights" / "last.pt").read_bytes()


def run_side(job: Job) -> Measured:
    """Validate twice, and once more without plots."""
    measured = Measured(declared=dict.fromkeys(DECLARED) | {"dtype": "fp32", "workers": job.parameters["workers"]})
    model = training.yolo_class(job.side)(str(job.scratch / WEIGHTS))
    _validated(model, job)
    for row, plots in (("val_5000_n", True), ("val_5000_n_no_plots", False)):
        metrics, wall_s, cpu_s = _validated(model, job, plots=plots)
        measured.values[row] = wall_s
        speed = ", ".join(f"{name} {spent_ms:.2f}" for name, spent_ms in metrics.speed.items())
        measured.notes[row] = f"main process busy {cpu_s / wall_s:.0%} of it (all threads); ms per image: {speed}"
        if plots:
            measured.values["val_5000_n_map50_95"] = float(metrics.box.map)
    return measured


def _validated(model: Any, job: Job, plots: bool = True) -> tuple[Any, float, float]:
    """Metrics, seconds on the clock, and seconds of CPU time in this process."""
    parameters = job.parameters
    options = {key: parameters[key] for key in ("batch", "imgsz", "workers", "device")}
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    metrics = model.val(
        data=training.data_yaml(job.scratch), project=str(job.scratch / "runs"), plots=plots, verbose=False, **options
    )
    return metrics, time.perf_counter() - wall_s, time.process_time() - cpu_s


BENCHMARK = Benchmark(
    name="val",
    claim="yolov12n on 5,000 pictures of 640 px, fp32, from label cache and warm kernels to the metrics",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    parameters={
        "model": "yolo12n.yaml",
        "images": 5000,
        "train_images": 800,
        "epochs": 10,
        "train_batch": 32,
        "batch": 64,
        "imgsz": 640,
        "workers": system.cores(),
        "device": "0",
    },
    prepare=prepare,
    timeout_s=900,
)
