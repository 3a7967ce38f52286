# SPDX-License-Identifier: AGPL-3.0-or-later
"""The real trainer where memory is short: planned, out of memory in earnest, and beside a neighbour; on tiny synthetic data.

    python -m pytest tests/gpu/test_memory.py -s        (-s shows what plans said beside what was measured)

A run of 6 updates takes some seconds. Weights are compared to the bit, with deterministic=True and plain attention, whose backward repeats.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.training import kept_peak
from yolov12.data import synth
from yolov12.engine import trainer as engine
from yolov12.engine.loop import Loop
from yolov12.memory.history import History
from yolov12.memory.plan import Plan

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms; read at cuBLAS's first use

ARGUMENTS = {
    "epochs": 3,
    "imgsz": 320,
    "batch": 32,
    "nbs": 32,
    "workers": 0,
    "device": 0,
    "optimizer": "SGD",
    "deterministic": True,
    "val": False,
    "plots": False,
    "verbose": False,
}
PICTURES = 64
TIGHT = 0.6
"""Of what a step needs with everything kept: recomputation must find the rest, and can."""

Callback = Callable[[Any], None]


@dataclass
class Outcome:
    """What a run left behind."""

    weights: dict[str, Tensor]
    """Of the model and its EMA, on the CPU."""
    peak_bytes: int
    """Most that was in use at once, beyond what was before."""
    before_bytes: int
    """In use before the run; the plan counts it, as whatever else it can not give back."""
    plan: Plan
    """Of the last step."""
    history: History
    losses: list[float]


class Runs:
    """Short runs on one data set; what those with the same arguments and no limit gave is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Few pictures to validate: the final evaluation is no part of what is tested.
        self.data = synth.write(folder / "synth", n_train=PICTURES, n_val=4, imgsz=320)
        self._unlimited: dict[str, Outcome] = {}

    def unlimited(self, **arguments: Any) -> Outcome:
        key = repr(arguments)
        if key not in self._unlimited:
            self._unlimited[key] = self.train(**arguments)
        return self._unlimited[key]

    def train(
        self, cap_bytes: int | None = None, callbacks: dict[str, Callback] | None = None, **arguments: Any
    ) -> Outcome:
        """Train from fixed weights. `cap_bytes` is what the run may allocate; callbacks are ultralytics', by event."""
        from yolov12 import YOLO

        seen: dict[str, Any] = {"losses": []}

        def watched(trainer: Any) -> Loop:
            seen["loop"] = Loop(trainer)
            return seen["loop"]

        def note(trainer: Any) -> None:
            seen["losses"].append(sum(float(loss) for loss in trainer.tloss.values()))

        model = YOLO("yolov12n.yaml")
        for event, callback in (callbacks or {}).items():
            model.add_callback(event, callback)
        model.add_callback("on_train_epoch_end", note)
        with pytest.MonkeyPatch.context() as patch, limited(cap_bytes) as before_bytes, kept_peak() as peak:
            patch.setattr(engine, "Loop", watched)
            model.train(
                data=str(self.data), project=str(self.folder), name="run", exist_ok=True, **{**ARGUMENTS, **arguments}
            )
        trainer, step = model.trainer, seen["loop"].step
        weights = {**trainer.model.state_dict(), **{f"ema {k}": v for k, v in trainer.ema.ema.state_dict().items()}}
        on_cpu = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        return Outcome(
            weights=on_cpu,
            peak_bytes=peak.allocated - before_bytes,
            before_bytes=before_bytes,
            plan=step.recomputation.plan,
            history=seen["loop"].history,
            losses=seen["losses"],
        )


@contextmanager
def limited(cap_bytes: int | None) -> Iterator[int]:
    """This process may allocate so many bytes more than it has, which is what it yields: tests of other modules may have left some."""
    gc.collect()  # what an earlier run left in cycles would count
    torch.cuda.empty_cache()
    before_bytes, held_bytes = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    if cap_bytes is not None:
        torch.cuda.set_per_process_memory_fraction((held_bytes + cap_bytes) / total_bytes())
    try:
        yield before_bytes
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def total_bytes() -> int:
    return torch.cuda.get_device_properties(0).total_memory


def assert_same_bits(got: Outcome, expected: Outcome) -> None:
    assert got.weights.keys() == expected.weights.keys()
    different = [name for name, value in expected.weights.items() if not torch.equal(got.weights[name], value)]
    assert not different, f"{len(different)} of {len(expected.weights)} tensors differ: {different[:5]}"


def assert_nothing_was_cut(run: Outcome) -> None:
    """Parts would change batch norm's statistics, and with them the bits."""
    assert run.plan.parts == 1, run.history.events
    assert run.history.count("split") == 0, run.history.events


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("memory"))


@pytest.fixture(autouse=True)
def plain_attention_and_clean_switches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("YOLOV12_FLASH_ATTN", "0")
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))  # each test plans anew
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


# ---- a cap from the start ----


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_under_a_cap_that_needs_recomputation_the_weights_are_those_of_a_run_without(runs: Runs, amp: str) -> None:
    free = runs.unlimited(amp=amp)
    tight = runs.train(cap_bytes=int(TIGHT * free.peak_bytes), amp=amp)
    print(
        f"\n{amp}: peak {mib(free.peak_bytes)}, under the cap {mib(tight.peak_bytes)}, {len(tight.plan.dropped)} parts dropped"
    )
    assert tight.plan.dropped
    assert tight.peak_bytes <= TIGHT * free.peak_bytes
    assert_nothing_was_cut(tight)
    assert_same_bits(tight, free)


def test_a_run_in_fp16_under_a_cap_keeps_finite_losses_and_weights(runs: Runs) -> None:
    tight = runs.train(cap_bytes=int(TIGHT * runs.unlimited(amp="fp16").peak_bytes), amp="fp16")
    assert len(tight.losses) == ARGUMENTS["epochs"]
    assert all(0 < loss < float("inf") for loss in tight.losses)
    assert all(tensor.isfinite().all() for tensor in tight.weights.values())


# ---- out of memory in earnest ----


class Hog:
    """Takes memory in the middle of one training step, after the plan for it was made, and gives it back after the step."""

    def __init__(self, leave_bytes: int, at_batch: int) -> None:
        self.leave_bytes, self.at_batch = leave_bytes, at_batch
        self.batches = 0
        self.held: Tensor | None = None

    def callbacks(self) -> dict[str, Callback]:
        return {
            "on_train_start": lambda trainer: trainer.model.register_forward_pre_hook(self._take),
            "on_train_batch_end": self._give_back,
        }

    def _take(self, *_: Any) -> None:
        if self.batches == self.at_batch and self.held is None:
            torch.cuda.empty_cache()
            cap = torch.cuda.get_per_process_memory_fraction() * total_bytes()
            size = int(cap) - torch.cuda.memory_reserved() - self.leave_bytes
            self.held = torch.empty(size, dtype=torch.uint8, device="cuda")

    def _give_back(self, trainer: Any) -> None:
        self.batches += 1
        self.held = None


def test_a_step_that_runs_out_of_memory_is_repeated_and_leaves_no_trace_in_the_weights(runs: Runs) -> None:
    free = runs.unlimited(amp="bf16")
    hog = Hog(leave_bytes=int(TIGHT * free.peak_bytes), at_batch=2)
    run = runs.train(cap_bytes=4 * free.peak_bytes, callbacks=hog.callbacks(), amp="bf16")
    assert run.history.count("retry") >= 1
    assert run.history.count("plan") >= 1
    assert_nothing_was_cut(run)
    assert_same_bits(run, free)


# ---- a neighbour ----


NEIGHBOUR = """
import sys, torch
torch.zeros(1, device="cuda")
print("ready", flush=True)
for line in sys.stdin:
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - int(line)), dtype=torch.uint8, device="cuda")
    print("took", held.numel(), flush=True)
"""


class Neighbour:
    """Another process on the GPU, which grows when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def grow(self, leave_bytes: int) -> None:
        """Take all that is free but so many bytes."""
        assert self.process.stdin is not None
        self._hear("ready")
        self.process.stdin.write(f"{leave_bytes}\n")
        self.process.stdin.flush()
        self._hear("took")

    def leave(self) -> None:
        self.process.kill()
        self.process.wait()

    def _hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(word)


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    made = Neighbour()
    yield made
    made.leave()


def test_a_neighbour_that_grows_tightens_the_plan_before_a_step_fails(runs: Runs, neighbour: Neighbour) -> None:
    # Before a step was measured the plan is an estimate, and at 320 px cuDNN's workspaces alone are more than the tenth that it leaves free.
    larger = {"imgsz": 640, "amp": "bf16"}
    free = runs.unlimited(**larger)

    def grow_after_the_first_epoch(trainer: Any) -> None:
        if trainer.epoch == 0:
            gc.collect()
            torch.cuda.empty_cache()  # what is only cached here could not be taken
            neighbour.grow(leave_bytes=int(TIGHT * free.peak_bytes))

    run = runs.train(callbacks={"on_train_epoch_end": grow_after_the_first_epoch}, **larger)
    assert run.history.count("plan") >= 1
    assert run.history.count("retry") == 0, run.history.events
    assert run.plan.dropped
    assert_nothing_was_cut(run)
    assert_same_bits(run, free)


# ---- the prediction ----


LARGE = {"imgsz": 640, "batch": PICTURES, "nbs": PICTURES, "amp": "bf16"}
"""Large enough that workspaces do not decide."""


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["unlimited", "half"])
def test_the_peak_is_within_a_tenth_of_what_the_plan_says(
    runs: Runs, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("YOLOV12_FLASH_ATTN")  # the attention that users get
    run = free = runs.unlimited(**LARGE)
    if share < 1:
        run = runs.train(cap_bytes=int(share * free.peak_bytes), **LARGE)
    planned = run.plan.peak_bytes - run.before_bytes
    off = run.peak_bytes / planned - 1
    print(f"\nplan {mib(planned)}, measured {mib(run.peak_bytes)}: {100 * off:+.1f} %")
    assert abs(off) <= 0.10, f"{100 * off:+.1f} %"


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
