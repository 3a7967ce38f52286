# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long a request waits for its answer: every size of YOLO12, batches of 1 to 64, NMS excluded and included, in half precision.

Three times for each size and batch, on pictures of the same size:

    network   pictures on the device -> the network's predictions there; NMS excluded
    boxes     the same -> boxes on the host, in `Results`; NMS included
    request   uint8 pictures of 1280x720 on the host -> boxes on the host: letterbox, copy and NMS included

All go through `YOLO.predict` and the predictor that it makes, with stock's defaults but for half precision and rect=False, so that each
request has the same square input. A value is the median of single calls, each from a device that has nothing left to do until its answer is there.
p90, p99, the number of calls and the clocks right after them are in the CSV beside the record. Nothing sets a clock. With form=aoti
ours runs packages of AOTInductor (docs/export.md), one for each size and batch. docs/benchmarks.md has the protocol.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import answers, clocks, timing, training
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.record import DECLARED

KINDS = {
    "network": "pictures on the device to predictions there, NMS excluded, p50",
    "boxes": "pictures on the device to boxes on the host, NMS included, p50",
    "request": "uint8 pictures of 1280x720 on the host to boxes on the host, p50",
}
SIZES = "nsmlx"
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Case(NamedTuple):
    """What a row measures."""

    kind: str
    size: str
    batch: int

    @property
    def row(self) -> str:
        """Its name."""
        return f"latency_{self.kind}_{self.size}_b{self.batch}"


CASES = [Case(kind, size, batch) for size in SIZES for batch in BATCHES for kind in KINDS]
"""In the order in which they are measured: a size's weights are loaded once."""


def prepare(parameters: Any, scratch: Path) -> None:
    """Results are drawn with a font that is there."""
    del parameters
    training.prepare_fonts(scratch)


def run_side(job: Job) -> Measured:
    """Size after size, in each from the smallest batch on; what has no room is a failure of its row."""
    yolo = training.yolo_class(job.side)
    is_package = job.side == "ours" and job.parameters["form"] == "aoti"
    measured = Measured(
        declared=dict.fromkeys(DECLARED) | {"dtype": "fp16", "compile": False, "form": "aoti" if is_package else "pt"}
    )
    for size in SIZES:
        cases = [case for case in CASES if case.size == size and case.row in job.rows]
        if not cases:
            continue
        weights = answers.weights(size, job.parameters, job.scratch)
        model, packed_for = yolo(weights), 0
        for case in cases:
            try:
                if is_package and packed_for != case.batch:
                    model, packed_for = yolo(_package(yolo(weights), case.batch, job)), case.batch
                _measure(case, model, job, measured)
            except RuntimeError as error:  # out of memory
                measured.failed[case.row] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            job.tell(measured)
        del model
        gc.collect()  # it is full of cycles
    return measured


def _package(model: Any, batch: int, job: Job) -> str:
    """The model compiled for one batch, which takes minutes; not compared, since the weights are not trained."""
    options = {key: job.parameters[key] for key in ("imgsz", "device")}
    return str(model.export(format="aoti", batch=batch, half=options["device"] != "cpu", verify=False, **options))


def _measure(case: Case, model: Any, job: Job, measured: Measured) -> None:
    parameters = job.parameters
    frames = [answers.frame() for _ in range(case.batch)]
    call = _call_of(case.kind, model, frames, job)
    device = answers.device_of(parameters)
    per_call_s = timing.warm(call, device, least_calls=parameters["warmup_calls"], least_s=parameters["warmup_s"])
    calls = min(parameters["calls"], max(parameters["least_calls"], int(parameters["budget_s"] / per_call_s)))
    found = answers.quantiles(timing.latencies_ms(call, device, calls))
    measured.values[case.row] = found.p50
    measured.notes[case.row] = found.words()
    measured.details[case.row] = {
        "batch": case.batch,
        "p50_ms": found.p50,
        "p90_ms": found.p90,
        "p99_ms": found.p99,
        "calls": found.calls,
        "images_per_s": 1000 * case.batch / found.p50,
        **clocks.as_found(parameters["device"]),
    }


def _call_of(kind: str, model: Any, frames: list[Any], job: Job) -> Callable[[], Any]:
    """One request, as a function. The predictor is set up by a request of the same batch."""
    import torch

    options = {key: job.parameters[key] for key in ("imgsz", "device")} | {
        "quantize": 16,
        "verbose": False,
        "rect": False,
    }

    def request() -> Any:
        return [result.boxes.data.cpu() for result in model.predict(frames, **options)]

    if kind == "request":
        return request
    request()
    predictor, side = model.predictor, job.parameters["imgsz"]
    with torch.inference_mode():
        pictures = predictor.preprocess(frames).clone()
    assert pictures.shape == (len(frames), 3, side, side), "rect=False pads to a square"

    @torch.inference_mode()
    def network() -> Any:
        return predictor.inference(pictures)

    @torch.inference_mode()
    def boxes() -> Any:
        found = predictor.postprocess(predictor.inference(pictures), pictures, frames)
        return [result.boxes.data.cpu() for result in found]

    return network if kind == "network" else boxes


BENCHMARK = Benchmark(
    name="latency",
    claim="a request to a .pt file in half precision waits less than stock's, in every size and batch, NMS excluded and included",
    rows=tuple(
        Row(case.row, "ms", "lower", f"yolo12{case.size}, batch {case.batch}: {KINDS[case.kind]}") for case in CASES
    ),
    needs="cuda",
    run_side=run_side,
    parameters={
        "imgsz": 640,
        "calls": 300,
        "least_calls": 30,
        "budget_s": 5.0,
        "warmup_calls": 10,
        "warmup_s": 0.5,
        "form": "pt",
        "device": "0",
    },
    prepare=prepare,
    repeats=1,
    timeout_s=3600,
)
