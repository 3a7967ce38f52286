# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a training step scales over the GPUs of one machine: images per second of N GPUs over N times those of one, with a fixed batch on each.

In one set of N processes the first GPU steps alone and then all step together, several times in turns, so that both see the same clocks and
temperatures (benchmarks/scale_run.py). The batch is train_step's and lies on the GPU: neither side's loader is measured.

Stock is ultralytics' modules under torch's DDP, made with the arguments that its trainer gives (engine/trainer.py:443), and the loss times the
number of GPUs (engine/trainer.py:553). Its trainer itself would bring its loader, its launcher and the writing of a data set into what is
clocked. Ours is the engine's step with its vote and its sum over ranks, and the check of every tenth step that all hold the same numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks import ranks
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.scale_run import FAILED

GPUS = (2, 4, 8)
"""Of one machine: what is measured without being named."""
MOST_GPUS = 16
"""Of one machine. Any number up to here has rows of its own, for `--rows scale6_s`."""
BATCH_PER_GPU = {"n": 64, "s": 64, "m": 32, "l": 16}
CASES = {f"scale{gpus}_{size}": (gpus, size) for gpus in range(2, MOST_GPUS + 1) for size in BATCH_PER_GPU}
BYTES = "reduce_bytes_bf16"
BYTES_RANKS = 2
BYTES_NOTE = (
    "bytes that one rank of 2 sends in an update of yolov12n with YOLOV12_GRAD_COMPRESS=bf16, over those without"
)


def _images(size: str, parameters: Mapping[str, Any]) -> int:
    """On each GPU in a run, which may be smaller than the claim's."""
    return max(1, BATCH_PER_GPU[size] // parameters["batch_divisor"])


def _places(parameters: Mapping[str, Any]) -> str:
    return "processes on the CPU" if parameters["device"] == "cpu" else "GPUs"


def _note(size: str, gpus: int, parameters: Mapping[str, Any]) -> str:
    count, imgsz = _images(size, parameters), parameters["imgsz"]
    each = f"{count} images of {imgsz} px on each of {gpus} {_places(parameters)}"
    return f"yolov12{size}, {each}: their img/s over {gpus} times those of one"


ROWS = (
    *(
        Row(
            name,
            "efficiency",
            "higher",
            partial(_note, size, gpus),
            gpus=gpus,
            only_by_name=gpus not in GPUS,
        )
        for name, (gpus, size) in CASES.items()
    ),
    Row(BYTES, "share", "lower", BYTES_NOTE, gpus=BYTES_RANKS),
)


def run_side(job: Job) -> Measured:
    """Each number of GPUs in one set of processes; in a further one, what comes after a case that ended them."""
    measured = Measured(declared={})
    if BYTES in job.rows and job.side == "stock":
        measured.failed[BYTES] = "ultralytics' DDP sends gradients as they are"
    number = itertools.count()
    for gpus, left in _by_gpus(job):
        while left:
            folder = job.scratch / f"ranks-{next(number)}"
            asked = {**_asked(job), "port": ranks.free_port(), "cases": left}
            # NVLink multicast is not there on every machine that has several GPUs, and NCCL may hang where it only seems to be.
            ended, answers = ranks.run(
                "benchmarks.scale_run", asked, gpus, folder, job.parameters["limit_s"], NCCL_NVLS_ENABLE="0"
            )
            done = [case for case in left if all(case["row"] in answer for answer in answers)]
            for case in done:
                _take(case, [answer[case["row"]] for answer in answers], measured, _places(job.parameters))
            if not ended:
                break
            if len(done) < len(left):
                measured.failed[left[len(done)]["row"]] = "; ".join([*_cause(answers), ended])
            left = left[len(done) + 1 :]
    return measured


def _by_gpus(job: Job) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(GPUs, cases) of the rows that are asked for."""
    for gpus in range(2, MOST_GPUS + 1):
        cases = [
            {"row": row, "size": size, "images": _images(size, job.parameters)}
            for row, (of, size) in CASES.items()
            if row in job.rows and of == gpus
        ]
        if gpus == BYTES_RANKS and BYTES in job.rows and job.side == "ours":
            cases.append({"row": BYTES, "size": "n"})
        if cases:
            yield gpus, cases


def _asked(job: Job) -> dict[str, Any]:
    return {
        "side": job.side,
        **{name: job.parameters[name] for name in ("device", "imgsz", "warmup_steps", "steps", "turns")},
    }


def _take(case: dict[str, Any], answers: Sequence[dict[str, Any]], measured: Measured, places: str) -> None:
    """What the ranks found becomes the row's value and note."""
    first = answers[0]
    measured.declared = measured.declared or first["declared"]
    row = case["row"]
    if row == BYTES:
        measured.values[row] = first["bytes_bf16"] / first["bytes"]
        measured.notes[row] = f"{first['bytes_bf16']:,} of {first['bytes']:,} bytes"
        return
    measured.values[row], measured.notes[row] = efficiency(case["images"], answers, places)


def efficiency(images: int, answers: Sequence[dict[str, Any]], places: str = "GPUs") -> tuple[float, str]:
    """(the efficiency, by the medians of the turns; what else there is to tell).

    Args:
        images: of each GPU's batch.
        answers: of each rank (scale_run.py). A turn of all lasts as long as its slowest rank's.
        places: what the ranks are on, in words.
    """
    first, size = answers[0], len(answers)
    together_s = [max(turn) for turn in zip(*(answer["together_step_s"] for answer in answers), strict=True)]
    alone_rates = [images / step_s for step_s in first["alone_step_s"]]
    rates = [images * size / step_s for step_s in together_s]
    value = median(rates) / (size * median(alone_rates))
    said = [
        f"{size} {places} {_rates(rates)} img/s",
        f"one {_rates(alone_rates)} img/s",
    ]
    if first["reduce_s"] is None:
        said.append("all-reduce: not seen by torch's profiler")
    else:
        share = first["reduce_s"] / median(together_s)
        said.append(f"all-reduce runs for {first['reduce_s'] * 1000:.2f} ms of a step, {share:.1%} of its time")
    return value, ", ".join([*said, first["peak"]])


def _cause(answers: Sequence[dict[str, Any]]) -> list[str]:
    """What one of the ranks said that ended with an error, if any did: one that failed itself, before one that lost its peers."""
    said = [answer[FAILED] for answer in answers if FAILED in answer]
    return sorted(said, key=lambda words: "PeerFailedError" in words)[:1]


def _rates(rates: Sequence[float]) -> str:
    return f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


BENCHMARK = Benchmark(
    name="scale",
    claim="training steps on N GPUs of one machine are nearly N times as many images per second as on one",
    rows=ROWS,
    needs="cuda",
    gpus=min(GPUS),
    run_side=run_side,
    parameters={
        "device": "cuda",
        "imgsz": 640,
        "batch_divisor": 1,
        "warmup_steps": 20,
        "steps": 20,
        "turns": 3,
        "limit_s": 240.0,
    },
    repeats=2,
    timeout_s=540.0,
)
