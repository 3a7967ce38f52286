# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our CUDA kernels (docker/kernels) against torch and cuDNN on the shapes of yolov12n and s: where constants that were chosen by hand come from.

    fused_conv.cu's tiles and what `tile_for` chooses among them    fused_conv_n_b1, fused_conv_s_b32
    two_kernels.py's DEEP and LARGE                                 the same, torch's place
    blocks/attention.py's MOST_TOKENS                               attend_t100, attend_t400, attend_t1600
    one_kernel.py's BEGINS_EARLY                                    the way `early` of every kernel of inference

Not a comparison with stock: both sides of a row run in our process, in turns, and what stands in stock's place is torch's operation for the same.
A row is the sum over a network's shapes, each as often as it occurs there. The log has a line for each shape, written as soon as it was measured.
docs/benchmarks.md says how it is timed. There is nothing to time without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.kernels import clock, contest, inference, training
from benchmarks.kernels.clock import Clock
from benchmarks.kernels.contest import Contest, Result
from benchmarks.kernels.inference import EARLY, TWO_KERNELS, Place
from benchmarks.record import DECLARED

LONE_SEQUENCES = 4
"""Of a picture at the first stage that attends: its four areas."""


class Group(NamedTuple):
    """A row: contests of which each result counts as often as a network has its shape."""

    note: str
    contests: Callable[[Place], list[Contest]]
    is_cold: bool
    """Whether calls find nothing in the cache (clock.hold)."""
    beside: tuple[str, ...] = ()
    """Ways that the note sums, beside the two that the row compares."""


def _of_inference(make: Callable[..., list[Contest]], note: str, *beside: str) -> dict[str, Group]:
    """Rows of a function of (place, size, images), for the two networks that docs/performance.md has targets for."""
    return {
        f"{make.__name__}_{size}_b{images}": Group(
            f"yolov12{size}, {images} pictures, fp16: {note}",
            partial(make, size=size, images=images),
            images > 1,
            (*beside, EARLY),
        )
        for size, images in (("n", 1), ("s", 32))
    }


def _of_training(make: Callable[..., list[Contest]], note: str, *beside: str) -> dict[str, Group]:
    return {
        f"{make.__name__}_n_b{images}": Group(
            f"yolov12n, {images} pictures, bf16: {note}", partial(make, size="n", images=images), True, beside
        )
        for images in (64, 256)
    }


INFERENCE: dict[str, Group] = {
    **_of_inference(
        inference.fused_conv, "cuDNN and our pass for bias and SiLU; one kernel with the tile that tile_for chooses"
    ),
    **_of_inference(inference.network, "YOLOV12_PREDICT_KERNELS=0; 1. The whole network as a CUDA graph"),
    **_of_inference(inference.fused_depthwise, "cuDNN and SiLU; one kernel", TWO_KERNELS),
    **{
        f"decode_b{images}": Group(
            f"{images} pictures, fp16: ultralytics' decoding of a head's outputs; one kernel",
            partial(inference.decode, images=images),
            images > 1,
            (EARLY,),
        )
        for images in (1, 32)
    },
}
ATTEND = {f"attend_t{tokens}": tokens for tokens in inference.TOKENS_SIDE_PX}
"""Tokens of each row that is no sum over a network."""
TRAINING: dict[str, Group] = {
    **_of_training(
        training.norm_forward, "torch's batch norm and SiLU; our two passes", training.STATISTICS, training.APPLY
    ),
    **_of_training(training.norm_backward, "gradients of torch's batch norm and SiLU; our two passes"),
    **_of_training(training.join, "torch's upsampling and concatenation; one pass"),
    **_of_training(training.stem_forward, "cuDNN; ours"),
    **_of_training(training.stem_backward, "cuDNN's gradient of the filter; ours"),
    **_of_training(training.depthwise_forward, "cuDNN; ours"),
    **_of_training(training.depthwise_backward, "cuDNN's gradients of input and filter; our two kernels"),
}
GROUPS = INFERENCE | TRAINING


def _attend_note(tokens: int) -> str:
    side = inference.TOKENS_SIDE_PX[tokens]
    return (
        f"fp16, {LONE_SEQUENCES} sequences of {tokens} tokens, as of one picture of {side} px, two heads: "
        "what the dispatcher takes; our kernel"
    )


ROWS = (
    *(Row(name, "us", "lower", group.note) for name, group in INFERENCE.items()),
    *(Row(name, "us", "lower", _attend_note(tokens)) for name, tokens in ATTEND.items()),
    *(Row(name, "us", "lower", group.note) for name, group in TRAINING.items()),
)
"""In the order in which they are measured: what constants wait for comes first."""


def run_side(job: Job) -> Measured:
    """Every row in our process; none where the kernels are not there."""
    import torch

    from yolov12.model import attention
    from yolov12.model.fused.norm import kernels_missing

    attention.install()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = job.parameters["cudnn_benchmark"]
    place = Place(torch.device("cuda", torch.cuda.current_device()), torch.ops.yolov12_kernels, job.parameters["imgsz"])
    measured = Measured(
        declared=dict.fromkeys(DECLARED)
        | {"dtype": "as the row says", "deterministic": False, "cudnn_benchmark": job.parameters["cudnn_benchmark"]}
    )
    if reason := kernels_missing(place.device):
        measured.failed = dict.fromkeys(job.rows, f"without our kernels: {reason}")
        return measured
    _say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    with torch.no_grad():
        measure(job, place, clock.GpuClock(job.parameters["replays"]), measured)
    return measured


def measure(job: Job, place: Place, by: Clock, measured: Measured) -> None:
    """Fill in what is measured, row after row, until the time is up; what has no room is a failure of its row."""
    end_s = job.started_s + job.parameters["budget_s"]
    for name in job.rows:
        left_out = f"the budget of {job.parameters['budget_s']:g} s is spent: --rows {name} measures it alone"
        _say(f"{name}:")
        try:
            value = _attend(name, place, by, end_s) if name in ATTEND else _grouped(name, place, by, end_s)
        except TimeoutError:
            measured.failed[name] = left_out
        except (RuntimeError, AttributeError) as error:  # out of memory, or ops of another version
            measured.failed[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        else:
            measured.itself[name], measured.values[name], measured.notes[name] = value
            _say(f"{name}: {contest.OTHER} {value[0]:.1f} us, {contest.OURS} {value[1]:.1f} us; {value[2]}")


def _grouped(name: str, place: Place, by: Clock, end_s: float) -> tuple[float, float, str]:
    """(torch's microseconds, ours, a note) of a row."""
    group, results = GROUPS[name], []
    for one in group.contests(place):
        results.append(_held(one, by, group.is_cold, end_s))
    other, ours = (contest.total_us(results, way) for way in (lambda one: one.other_us, lambda one: one.ours_us))
    return other, ours, contest.summary(results, group.beside)


def _attend(name: str, place: Place, by: Clock, end_s: float) -> tuple[float, float, str]:
    """As `_grouped`: the row is a lone picture's, and the note says up to how many rows ours takes no more."""
    from yolov12.model.blocks.attention import MOST_TOKENS

    results = {rows: _held(one, by, False, end_s) for rows, one in inference.attend(place, ATTEND[name]).items()}
    lone = results[LONE_SEQUENCES * ATTEND[name] * inference.NANO_HEADS]
    most = contest.largest_before(results)
    words = ", ".join(f"{rows}: {one.other_us:.1f} and {one.ours_us:.1f}" for rows, one in results.items())
    return (
        lone.other_us,
        lone.ours_us,
        f"no slower up to {most or 'no'} rows of queries (taken up to {MOST_TOKENS} tokens); us at so many rows {words}",
    )


def _held(one: Contest, by: Clock, is_cold: bool, end_s: float) -> Result:
    if time.monotonic() > end_s:
        raise TimeoutError
    result = clock.hold(one, by, is_cold)
    _say(f"  {contest.line(result)}")
    needed = {contest.OTHER, one.chosen or contest.OURS}
    for way in needed - result.us.keys():
        raise RuntimeError(f"{one.words}: {way} could not run: {result.failed[way]}")
    return result


def _say(line: str) -> None:
    print(line, flush=True)


BENCHMARK = Benchmark(
    name="kernels",
    claim="our CUDA kernels against torch's operations, one by one; not a comparison with stock",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("ours",),
    parameters={"imgsz": 640, "replays": 10, "budget_s": 150.0, "cudnn_benchmark": False},
    repeats=1,
    timeout_s=300,
)
