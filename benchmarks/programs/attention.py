# SPDX-License-Identifier: AGPL-3.0-or-later
"""The attention of one whole model: its eight AAttn modules from the qkv convolution's output to the projection's input.

Both sides call `AAttn.forward` with the convolutions taken out (identities), so what is left is splitting heads, attention and merging:
upstream's code in stock, our one NHWC path on the chosen backend in ours. The note lists every backend's time; the dispatcher's table
(yolov12/model/attention/choose.py) cites this record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks import timing
from benchmarks.harness import Benchmark, Job, Measured, Row

HEAD_DIM = 32  # in every YOLOv12
MODULES_PER_STAGE = 4


class Stage(NamedTuple):
    """Where attention sits in the backbone at 640 pixels: 40x40 in 4 areas, and 20x20 whole. Both attend over 400 tokens."""

    name: str
    side_px: int
    area: int


STAGES = (Stage("p4", 40, 4), Stage("p5", 20, 1))
HEADS = {"n": {"p4": 2, "p5": 4}, "s": {"p4": 4, "p5": 8}}


class Case(NamedTuple):
    """One row: `attn_fwd_n_b256_bf16` or `attn_fwdbwd_n_b256_bf16`."""

    direction: str
    size: str
    batch: int
    dtype: str

    @property
    def row(self) -> str:
        """The row's name."""
        return f"attn_{self.direction}_{self.size}_b{self.batch}_{self.dtype}"

    def batch_of(self, parameters: Mapping[str, Any]) -> int:
        """Of a run, which may be smaller than the claim's."""
        return max(1, self.batch // parameters["batch_divisor"])


CASES = {
    case.row: case
    for case in (
        Case(direction, size, batch, dtype)
        for direction in ("fwd", "fwdbwd")
        for size in HEADS
        for batch in (1, 64, 256)
        for dtype in ("fp16", "bf16")
    )
}
WORDS = {
    "fwd": "inference, half precision throughout",
    "fwdbwd": "training, forward under autocast and backward",
}


def _note(case: Case, parameters: Mapping[str, Any]) -> str:
    return f"{WORDS[case.direction]}, channels_last, batch {case.batch_of(parameters)}"


ROWS = tuple(Row(case.row, "ms", "lower", partial(_note, case)) for case in CASES.values())


def run_side(job: Job) -> Measured:
    """The sum over the model's modules for each case; for ours with the backend that the dispatcher takes."""
    import torch

    torch.manual_seed(0)
    if job.side == "ours":
        from yolov12.model import attention

        attention.install()
    measured = Measured(
        declared={
            "dtype": "as the row says",
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "optimizer": None,
            "workers": None,
            "cache": None,
        }
    )
    for name in job.rows:
        case = CASES[name]
        try:
            measured.values[name] = sum(_stages_ms(case, job).values())
            if job.side == "ours":
                measured.notes[name] = _backends_note(case, job)
        except torch.OutOfMemoryError as error:
            measured.failed[name] = f"out of memory: {str(error).splitlines()[0]}"
        job.tell(measured)
    return measured


def _stages_ms(case: Case, job: Job) -> dict[str, float]:
    """Milliseconds of all modules of each stage."""
    device, budget_ms = job.parameters["device"], job.parameters["budget_ms"]
    return {
        stage.name: MODULES_PER_STAGE * timing.median_ms(_call(case, stage, job), device, budget_ms) for stage in STAGES
    }


def _call(case: Case, stage: Stage, job: Job) -> Callable[[], Any]:
    """One AAttn.forward, with its backward if the case trains, on random numbers in channels_last."""
    import torch
    from ultralytics.nn.modules.block import AAttn

    device = job.parameters["device"]
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[case.dtype]
    heads = HEADS[case.size][stage.name]
    module = AAttn(heads * HEAD_DIM, heads, stage.area)
    module.qkv = module.pe = module.proj = torch.nn.Identity()
    shape = (case.batch_of(job.parameters), 3 * heads * HEAD_DIM, stage.side_px, stage.side_px)
    qkv = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    if case.direction == "fwd":

        def infer() -> Any:
            with torch.inference_mode():
                return module(qkv)

        return infer
    qkv.requires_grad_()
    gradient = torch.randn(shape[0], shape[1] // 3, *shape[2:], device=device, dtype=dtype)
    gradient = gradient.to(memory_format=torch.channels_last)

    def train() -> None:
        with torch.autocast(device, dtype):
            out = module(qkv)
        qkv.grad = None
        out.backward(gradient.to(out.dtype))

    return train


def _backends_note(case: Case, job: Job) -> str:
    """What the dispatcher takes, and microseconds per module (p4 + p5) of every backend that can serve the case."""
    import torch

    from yolov12.errors import UserError
    from yolov12.model import attention
    from yolov12.model.attention.backends import BACKENDS

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[case.dtype]
    kind = (torch.device(job.parameters["device"]), dtype, case.direction == "fwdbwd")
    at_each_size = [attention.describe(*kind, large=large)[0] for large in (False, True)]
    chosen = " or, from 400,000 query rows on, ".join(dict.fromkeys(at_each_size))
    parts = []
    for name in BACKENDS:
        attention.configure(name)
        try:
            attention.describe(*kind)
        except UserError:
            continue  # can not serve this dtype or device; the dispatcher's own tests say why
        each_us = {stage: 1000 * ms / MODULES_PER_STAGE for stage, ms in _stages_ms(case, job).items()}
        parts.append(f"{name} {each_us['p4']:.0f} + {each_us['p5']:.0f}")
    attention.configure("1")
    return f"{chosen}; us per module, p4 + p5: {', '.join(parts)}"


BENCHMARK = Benchmark(
    name="attention",
    claim="area attention on the kernel that the dispatcher takes, against upstream's matrix products and softmax",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    parameters={"device": "cuda", "batch_divisor": 1, "budget_ms": 60.0},
)
