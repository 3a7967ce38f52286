# SPDX-License-Identifier: AGPL-3.0-or-later
"""Answers of a `.pt` file in half precision: of the network alone, from a picture on the host to boxes on the host, from a folder of files, the
first one, and what validation needs of memory.

All sides go through `YOLO.predict` and the predictor that it makes. Stock has its defaults and quantize=16; tuned adds channels_last=True and
compile="reduce-overhead", which compiles the network and runs it by CUDA graphs, and for a folder batch=32. Ours has stock's arguments. The weights
are not trained (benchmarks/lively.py): time does not depend on what a network has learned as long as its NMS has something to do. Calls come one
after the other, each from a device that has nothing left to do until its answer is there, after enough calls to warm up; values are medians, p90 and
p99 are in the notes.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import answers, timing, training
from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Row
from benchmarks.record import DECLARED

Parameters = Mapping[str, Any]


def _batch(claimed: int, parameters: Parameters) -> int:
    """Of a run, which may be smaller than the claim's."""
    return max(1, claimed // parameters["batch_divisor"])


def _network_note(size: str, batch: int, parameters: Parameters) -> str:
    count = _batch(batch, parameters)
    pictures = f"{'one picture' if count == 1 else f'{count} pictures'} of {parameters['imgsz']} px"
    return f"yolov12{size} alone, {pictures} on the {'CPU' if parameters['device'] == 'cpu' else 'GPU'}, p50"


def _files_note(parameters: Parameters) -> str:
    return f"a folder of {parameters['files']:,} JPEG files to Results, the second of two times"


def _val_note(parameters: Parameters) -> str:
    return f"most in use by tensors in `model.val(batch={_batch(128, parameters)})` of {parameters['imgsz']} px, fp32"


ROWS = (
    Row(
        "load_to_first_answer",
        "s",
        "lower",
        "from YOLO(file) to the boxes of its first picture on the host; after the imports",
    ),
    Row("infer_n_b1", "ms", "lower", partial(_network_note, "n", 1)),
    Row("frame_to_boxes_n", "ms", "lower", "uint8 picture of 1280x720 on the host to boxes on the host, p50"),
    Row("infer_s_b32", "ms", "lower", partial(_network_note, "s", 32)),
    Row("predict_files_n", "s", "lower", _files_note),
    Row("val_memory_n_b128", "GiB", "lower", _val_note),
)
SIZES = {"infer_s_b32": "s"}
DRAWN = 250
Load = Callable[[], Any]
"""Gives the `YOLO` of the row's weights."""
Measure = Callable[[Load, Job], tuple[float, str]]
"""Gives a row's value and what to note of it."""


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """Draw the pictures; a folder of files has copies of them until there are enough."""
    from yolov12.data import synth

    drawn = min(DRAWN, parameters["files"])
    synth.write(
        scratch / "data", n_train=1, n_val=max(drawn, parameters["val_images"]), imgsz=parameters["imgsz"], seed=0
    )
    originals = sorted((scratch / "data/images/val").iterdir())[:drawn]
    (scratch / "files").mkdir()
    for number in range(parameters["files"]):
        shutil.copyfile(originals[number % drawn], scratch / "files" / f"{number:05}.jpg")
    training.prepare_fonts(scratch)


def run_side(job: Job) -> Measured:
    """The rows in their order: the first answer comes before anything else has touched the device."""
    yolo = training.yolo_class(job.side)
    declared = dict.fromkeys(DECLARED) | {"dtype": "fp16", "compile": _switches(job).get("compile", False)}
    measured = Measured(declared=declared)
    for row in ROWS:
        if row.name not in job.rows:
            continue
        weights = answers.weights(SIZES.get(row.name, "n"), job.parameters, job.scratch)
        gc.collect()  # the model of the row before is full of cycles
        _forget_compiled()
        try:
            measured.values[row.name], measured.notes[row.name] = MEASURES[row.name](partial(yolo, weights), job)
        except RuntimeError as error:  # out of memory, or a compiler that fails
            measured.failed[row.name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        job.tell(measured)
    return measured


def _forget_compiled() -> None:
    """As in a process of its own: a shape that differs from the row's before would be compiled for all shapes, which takes long and runs slower."""
    if (compiler := sys.modules.get("torch._dynamo")) is not None:
        compiler.reset()


def _switches(job: Job) -> dict[str, Any]:
    """The arguments that a side adds to the row's."""
    if job.side != "tuned":
        return {}
    return {"channels_last": True} | ({"compile": job.parameters["compile"]} if job.parameters["compile"] else {})


def _options(job: Job) -> dict[str, Any]:
    return (
        {key: job.parameters[key] for key in ("imgsz", "device")} | {"quantize": 16, "verbose": False} | _switches(job)
    )


def _first_answer(load: Load, job: Job) -> tuple[float, str]:
    frame = answers.frame()
    started_s = time.perf_counter()
    found = load().predict(frame, **_options(job))[0].boxes.data.cpu()
    return time.perf_counter() - started_s, f"{len(found)} boxes"


def _network(batch: int) -> Measure:
    """Measures the network alone on random pictures that are on the device."""

    def measure(load: Load, job: Job) -> tuple[float, str]:
        import torch

        model = load()
        model.predict(answers.frame(), **_options(job))
        predictor, size = model.predictor, job.parameters["imgsz"]
        with torch.inference_mode():
            dtype = torch.float16 if predictor.model.fp16 else torch.float32
            pictures = torch.rand(_batch(batch, job.parameters), 3, size, size, device=predictor.device)
            pictures = pictures.to(dtype)
            return _percentiles(lambda: predictor.inference(pictures), job)

    return measure


def _frame_to_boxes(load: Load, job: Job) -> tuple[float, str]:
    model, frame, options = load(), answers.frame(), _options(job)
    spent_ms, words = _percentiles(lambda: model.predict(frame, **options)[0].boxes.data.cpu(), job)
    return spent_ms, f"{words}; {len(model.predict(frame, **options)[0].boxes)} boxes"


def _percentiles(call: Callable[[], Any], job: Job) -> tuple[float, str]:
    """(p50, words with the others) in ms."""
    device = answers.device_of(job.parameters)
    timing.warm(call, device, least_calls=job.parameters["warmup_calls"], least_s=0)
    found = answers.quantiles(timing.latencies_ms(call, device, job.parameters["calls"]))
    return found.p50, found.words()


def _files(load: Load, job: Job) -> tuple[float, str]:
    model = load()
    options = _options(job) | ({"batch": 32} if job.side == "tuned" else {})
    spent_s, boxes = 0.0, [0]
    for _ in range(2):
        started_s = time.perf_counter()
        # One after the other is looked at and let go: all pictures together would be gigabytes.
        boxes = [len(one.boxes) for one in model.predict(str(job.scratch / "files"), stream=True, **options)]
        spent_s = time.perf_counter() - started_s
    if len(boxes) != job.parameters["files"]:
        raise BenchmarkError(f"{len(boxes)} of {job.parameters['files']} files were answered")
    return spent_s, f"{len(boxes) / spent_s:.0f} files/s, {sum(boxes) / len(boxes):.0f} boxes in each"


def _val_memory(load: Load, job: Job) -> tuple[float, str]:
    model, parameters = load(), job.parameters
    options = {key: parameters[key] for key in ("imgsz", "device", "workers")} | {"plots": False, "verbose": False}
    with training.kept_peak() as peak:
        model.val(
            data=training.data_yaml(job.scratch),
            batch=_batch(128, parameters),
            project=str(job.scratch / "runs"),
            **options,
        )
    return peak.allocated / 2**30, peak.words()


MEASURES: dict[str, Measure] = {
    "load_to_first_answer": _first_answer,
    "infer_n_b1": _network(1),
    "frame_to_boxes_n": _frame_to_boxes,
    "infer_s_b32": _network(32),
    "predict_files_n": _files,
    "val_memory_n_b128": _val_memory,
}

BENCHMARK = Benchmark(
    name="infer",
    claim="a .pt file answers in half precision without the gaps between kernels, from the first call and without compiling",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("stock", "tuned", "ours"),
    parameters={
        "imgsz": 640,
        "files": 2000,
        "val_images": 256,
        "calls": 300,
        "warmup_calls": 30,
        "batch_divisor": 1,
        "compile": "reduce-overhead",
        "workers": 8,
        "device": "0",
    },
    prepare=prepare,
    timeout_s=900,
)
