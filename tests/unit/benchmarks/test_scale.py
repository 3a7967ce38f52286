# SPDX-License-Identifier: AGPL-3.0-or-later
"""`scale` with two, three and eight processes on the CPU over gloo. What it measures there means nothing; that it comes from all of them does."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import ranks, scale_run
from benchmarks.harness import Job
from benchmarks.programs import scale

TINY = {"device": "cpu", "imgsz": 64, "batch_divisor": 64, "warmup_steps": 1, "steps": 1, "turns": 1, "limit_s": 250.0}


def job(side: str, rows: tuple[str, ...], scratch: Path) -> Job:
    return Job(side, {**scale.BENCHMARK.parameters, **TINY}, rows, scratch, time.monotonic())


def answer(**changes: object) -> dict:
    found = {
        "alone_step_s": [0.1, 0.1],
        "together_step_s": [0.1, 0.1],
        "reduce_s": 0.01,
        "peak": "no GPU",
        "declared": {"dtype": "fp32"},
    }
    return {**found, **changes}


def test_efficiency_is_all_over_so_many_times_one_and_the_slowest_rank_counts() -> None:
    answers = [answer(), answer(alone_step_s=[], together_step_s=[0.125, 0.1])]
    value, note = scale.efficiency(10, answers)
    assert value == pytest.approx((160 + 200) / 2 / (2 * 100))
    assert "2 GPUs 180.0 (160.0 to 200.0) img/s, one 100.0 (100.0 to 100.0) img/s" in note
    assert "all-reduce runs for 10.00 ms of a step, 8.9% of its time" in note


def test_what_the_profiler_did_not_show_is_said() -> None:
    assert "all-reduce: not seen by torch's profiler" in scale.efficiency(1, [answer(reduce_s=None)])[1]


def test_only_all_reduces_count_as_such() -> None:
    def event(name: str, us: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, time_range=SimpleNamespace(elapsed_us=lambda: us))

    names = [
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "c10d::allreduce_",
        "sm90_gemm",
        "gloo:all_reduce",
    ]
    assert scale_run.reduction_s(event(name, 10.0**number) for number, name in enumerate(names)) == pytest.approx(
        1001e-6
    )


def test_a_case_that_ends_its_processes_is_a_reason_and_the_next_ones_are_measured(tmp_path, monkeypatch) -> None:
    asked = []

    def run(module, order, count, folder, limit_s, **environ):
        asked.append([case["row"] for case in order["cases"]])
        assert environ == {"NCCL_NVLS_ENABLE": "0"}
        if len(asked) == 1:
            return "exit codes [1, -9]", [
                {"scale4_n": answer(), "failed": "rank 0: PeerFailedError: gone"},
                {"scale4_n": answer(), "failed": "rank 1: OutOfMemoryError: no room"},
            ]
        return "", [{row: answer() for row in asked[-1]}] * count

    monkeypatch.setattr(ranks, "run", run)
    measured = scale.run_side(job("stock", ("scale4_n", "scale4_s", "scale4_m", scale.BYTES), tmp_path))
    assert asked == [["scale4_n", "scale4_s", "scale4_m"], ["scale4_m"]]
    assert set(measured.values) == {"scale4_n", "scale4_m"}
    assert measured.failed["scale4_s"] == "rank 1: OutOfMemoryError: no room; exit codes [1, -9]"
    assert measured.failed[scale.BYTES] == "ultralytics' DDP sends gradients as they are"


def test_two_processes_step_alone_and_together_and_bf16_is_half_the_bytes(tmp_path) -> None:
    measured = scale.run_side(job("ours", ("scale2_n", scale.BYTES), tmp_path))
    assert not measured.failed
    assert measured.values["scale2_n"] > 0
    assert measured.notes["scale2_n"].startswith("2 processes on the CPU ")
    assert "all-reduce runs for " in measured.notes["scale2_n"]
    assert measured.values[scale.BYTES] == pytest.approx(0.5, abs=1e-3)
    assert measured.declared["NCCL_NVLS_ENABLE"] == "0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "row"), [("stock", "scale2_n"), ("ours", "scale3_n"), ("ours", "scale8_n"), ("stock", "scale8_n")]
)
def test_both_sides_step_in_two_and_in_more_processes(tmp_path, monkeypatch, side: str, row: str) -> None:
    if side == "stock":
        monkeypatch.setenv("YOLOV12_DISABLE", "1")
    measured = scale.run_side(job(side, (row,), tmp_path))
    assert not measured.failed
    assert measured.values[row] > 0
    assert measured.declared["deterministic"] is (side == "stock")
