# SPDX-License-Identifier: AGPL-3.0-or-later
"""Peak memory of a training step, and steps in less memory than stock needs: forward, loss, backward, clip, optimizer, EMA on a synthetic batch.

Ours runs the step and the plan of a training run; the plan is made anew during the warm-up, with what the first four steps measured. A budget is
a cap on what the process may allocate, and their rows compare ours with itself without a cap; the rows ending in 24g and 16g hold the
rest of the card in another process.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from benchmarks import timing, training
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.programs import train_step

STOCK_PEAK_GIB = 48.1
"""Of stock at yolov12n, batch 256, 640 px, as it was measured with cuDNN's autotuner; the budgets are shares of it."""

CARD_OF_80_GIB = 85
"""What an H100 has, in 1e9 bytes: where stock dies. On a larger card another process holds the rest."""
ABOUT = 1.02
"""A card that has so little more is such a card: a neighbour's own context would take that."""


class Case(NamedTuple):
    """One model and batch under one limit."""

    size: str
    batch: int
    imgsz: int = 640
    budget: float | None = None
    """As a share of stock's peak."""
    card_gb: int | None = None
    """What another process leaves of the card, in 1e9 bytes, where it has more."""

    def as_run(self, parameters: Mapping[str, Any]) -> Case:
        """With the batch and the pixels of a run, which may be smaller than the claim's, and without a limit where there is no card."""
        on_gpu = parameters["device"] != "cpu"
        return self._replace(
            batch=self.batch // parameters["batch_divisor"],
            imgsz=self.imgsz * parameters["imgsz"] // 640,
            budget=self.budget if on_gpu else None,
            card_gb=self.card_gb if on_gpu else None,
        )


FREE = {"mem_free_n_b256": Case("n", 256), "mem_free_s_b64": Case("s", 64)}
SLOWER = {"mem_half_n_b256": Case("n", 256, budget=0.5), "mem_third_n_b256": Case("n", 256, budget=0.35)}
FITS = {
    "fits_s_b256": Case("s", 256, card_gb=CARD_OF_80_GIB),
    "fits_x_b128": Case("x", 128, card_gb=CARD_OF_80_GIB),
    "fits_l_1280_b64": Case("l", 64, 1280, card_gb=CARD_OF_80_GIB),
    "fits_s_b256_24g": Case("s", 256, card_gb=24),
    "fits_s_b256_16g": Case("s", 256, card_gb=16),
}


def _what(case: Case) -> str:
    return f"yolov12{case.size}, batch {case.batch}, {case.imgsz} px"


def _free_note(case: Case, parameters: Mapping[str, Any]) -> str:
    return f"peak reserved, {_what(case.as_run(parameters))}; ours rebuilds inputs and recomputes no convolution"


def _slower_note(case: Case, parameters: Mapping[str, Any]) -> str:
    case = case.as_run(parameters)
    limit = f"at {case.budget} of {STOCK_PEAK_GIB} GiB" if case.budget else "without a limit, since it ran on the CPU"
    return f"a step of ours {limit}, {_what(case)}; in stock's place ours without a limit"


def _fits_note(case: Case, parameters: Mapping[str, Any]) -> str:
    case, steps = case.as_run(parameters), parameters["warmup_steps"] + parameters["steps"]
    where = f"in {case.card_gb} GB of a card" if case.card_gb else "on the CPU"
    return f"{steps} steps, warm-up among them, of {_what(case)}, {where}"


ROWS = (
    *(Row(name, "GiB", "lower", partial(_free_note, case)) for name, case in FREE.items()),
    *(Row(name, "ms", "lower", partial(_slower_note, case)) for name, case in SLOWER.items()),
    *(Row(name, "1 = ran", "higher", partial(_fits_note, case)) for name, case in FITS.items()),
)


_free_ms: dict[Case, float] = {}
"""Our step time without a limit."""


def run_side(job: Job) -> Measured:
    """Every row that this side has a part in."""
    import torch

    if job.side == "ours":
        from yolov12.engine.patches import install_patches
        from yolov12.memory import segments

        install_patches()
        segments.grow(torch.device(job.parameters["device"]))  # as a training run does
    train_step.set_determinism(on=job.side == "stock")
    device = torch.device(job.parameters["device"])
    measured = Measured(declared=train_step.declare(job))
    for name in job.rows:
        if name in SLOWER:
            _compare_with_itself(name, SLOWER[name], job, device, measured)
        else:
            _run(name, job, device, measured)
        job.tell(measured)
    return measured


def _run(name: str, job: Job, device: Any, measured: Measured) -> None:
    import torch

    try:
        # cuDNN's autotuner would take longer than the steps of these rows, which ask only whether they run.
        torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark and name in FREE
        found = _measure(FREE.get(name) or FITS[name], job, device, inputs_only=name in FREE)
    except torch.OutOfMemoryError as error:
        said = f"out of memory: {str(error).splitlines()[0][:120]}"
        if name in FREE:
            measured.failed[name] = said
        else:
            measured.values[name], measured.notes[name] = 0.0, said
        return
    measured.values[name] = found.reserved_gib if name in FREE else 1.0
    measured.notes[name] = f"{found.step_ms:.1f} ms a step, {found.note}"


def _compare_with_itself(name: str, case: Case, job: Job, device: Any, measured: Measured) -> None:
    if job.side != "ours":
        return
    free = case._replace(budget=None)
    if free not in _free_ms:  # rows share it
        _free_ms[free] = _measure(free, job, device).step_ms
    free_ms, limited = _free_ms[free], _measure(case, job, device)
    measured.itself[name], measured.values[name] = free_ms, limited.step_ms
    measured.notes[name] = limited.note


class Found(NamedTuple):
    """Of one case."""

    step_ms: float
    """Median."""
    reserved_gib: float
    """At most, the warm-up included."""
    note: str


def _measure(case: Case, job: Job, device: Any, inputs_only: bool = False) -> Found:
    """Warm up until the plan is the one that measurements of the first steps gave, then time."""
    import torch

    case = case.as_run(job.parameters)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        share = (
            case.budget * STOCK_PEAK_GIB * 2**30 / torch.cuda.get_device_properties(device).total_memory
            if case.budget
            else 1.0
        )
        torch.cuda.set_per_process_memory_fraction(share)
    with _neighbour(case.card_gb):
        batch = train_step.synthetic_batch(case.batch, case.imgsz, device)
        model, stock_step = train_step.trainee(case.size, batch, device)
        step, plan = (
            (_our_step(model, stock_step, batch, device, inputs_only)) if job.side == "ours" else (stock_step, None)
        )
        with training.kept_peak() as warming:
            timing.warm(step, device.type, least_calls=job.parameters["warmup_steps"])
        with training.kept_peak() as timed:
            spent_ms = median(timing.times_ms(step, device.type, job.parameters["steps"]))
    reserved_gib = max(warming.reserved, timed.reserved) / 2**30
    note = f"peak {reserved_gib:.2f} GiB reserved"
    return Found(spent_ms, reserved_gib, note if plan is None else f"{note}, {plan(timed.allocated)}")


def _our_step(model: Any, update: Any, batch: dict[str, Any], device: Any, inputs_only: bool) -> tuple[Any, Any]:
    """The engine's step in front of the same update, and what its plan said beside the peak that was measured."""
    import torch

    from yolov12.engine.profile import choices
    from yolov12.engine.step import Step
    from yolov12.model import fused

    recomputation = train_step.plan_memory(model, device)
    if inputs_only:
        recomputation.before(tuple(batch["img"].shape))
        if recomputation.known is not None:
            known = recomputation.known.profile
            fused.choose(choices(model, known, {i for i, block in enumerate(known.blocks) if block.is_input}))
    engine_step = Step(
        model=model,
        forward_loss=model,
        autocast=lambda: torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        scale_loss=lambda loss: loss,
        recomputation=None if inputs_only else recomputation,
    )

    def step() -> None:
        engine_step.run(batch)
        engine_step.take_gradients()
        update.update()

    def plan(peak_bytes: int) -> str:
        found = recomputation.plan
        if found is None:
            return recomputation.reason
        if inputs_only:
            return "every input rebuilt"
        expected = found.peak_bytes + recomputation.grown_bytes
        off = 100 * (peak_bytes / expected - 1)
        by = recomputation.known.why
        return (
            f"{peak_bytes / 2**30:.2f} GiB in use of the {expected / 2**30:.2f} expected from {by} ({off:+.1f} %), "
            f"{len(found.dropped)} parts recomputed, {found.parts} micro-batches"
        )

    return step, plan


@contextmanager
def _neighbour(card_gb: int | None) -> Iterator[None]:
    """Another process that leaves `card_gb` of the card, if it has more than that."""
    import torch

    if card_gb is None or torch.cuda.get_device_properties(0).total_memory <= card_gb * 10**9 * ABOUT:
        yield
        return
    torch.cuda.empty_cache()
    program = (
        "import sys, torch; torch.zeros(1, device='cuda'); free, total = torch.cuda.mem_get_info();"
        f"held = torch.empty(max(0, free - {card_gb} * 10**9), dtype=torch.uint8, device='cuda'); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


BENCHMARK = Benchmark(
    name="memory",
    claim="memory of a training step with a synthetic GPU batch, bf16 autocast, SGD",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    # Warm-up: one step that is not measured, three that are, one whose plan is made from them, and more for cuDNN to choose kernels under it.
    parameters={"device": "cuda", "imgsz": 640, "batch_divisor": 1, "warmup_steps": 8, "steps": 12},
    repeats=1,
)
