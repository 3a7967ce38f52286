# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `bench step` prints, from numbers made up here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.step import kinds, table, trace
from benchmarks.step.ceilings import Ceilings
from benchmarks.step.trace import Profile, Spent
from benchmarks.step.work import Work

PROFILE = Profile(
    steps=10,
    wall_ms=20.0,
    busy_ms=15.0,
    phases={
        trace.DATA: Spent(0.1, 0.0),
        trace.FORWARD: Spent(8.0, 5.0),
        trace.BACKWARD: Spent(6.0, 10.0),
        trace.UPDATE: Spent(2.0, 0.5),
    },
    kinds={kinds.CONVOLUTION: (12.0, 300.0), kinds.LOSS: (3.0, 9.0)},
    launches=1200.0,
    transfers=30.0,
    waits={"cudaStreamSynchronize": 1.5},
)


@pytest.fixture
def report() -> table.Report:
    work = Work()
    work.moved[trace.FORWARD], work.operations[trace.FORWARD] = 10e9, 1e12
    return table.Report(
        title="yolov12n.yaml, batch 64 at 640 px",
        batches="drawn",
        has_gpu=True,
        is_drawn=True,
        step_ms=16.0,
        profile=PROFILE,
        work=work,
        ceilings=Ceilings(4e12, 800e12, "a copy, a product"),
        graph_ms=10.0,
        graph_profile=replace(PROFILE, wall_ms=11.0, busy_ms=10.5, launches=40.0, waits={}),
    )


def row(lines: list[str], name: str) -> list[str]:
    """The cells after the first of the only row that begins so."""
    (line,) = [line for line in lines if line.startswith(name + "  ")]
    return line.removeprefix(name).split()


def test_a_phase_has_its_times_and_its_rates_against_the_ceilings(report):
    lines = table.lines(report)
    # 10 GB in 5 ms are 2000 GB/s, half of a copy's; 1 TFLOP in 5 ms is 200 TFLOP/s, a quarter of a product's.
    assert row(lines, trace.FORWARD) == ["8.00", "40%", "5.00", "25%", "2e+03", "50%", "200", "25%"]
    assert row(lines, trace.BACKWARD) == ["6.00", "30%", "10.00", "50%", "-", "-", "-", "-"]
    assert row(lines, "host gaps (GPU idle)") == ["5.00", "25%"]


def test_a_batch_that_lies_on_the_device_has_no_phases_of_data(report):
    assert set(row(table.lines(report), trace.DATA)) == {"-"}
    assert row(table.lines(replace(report, is_drawn=False)), trace.DATA)[0] == "0.10"


def test_every_kind_of_kernel_has_a_row_and_all_add_up(report):
    lines = table.lines(report)
    assert row(lines, kinds.CONVOLUTION) == ["12.00", "80%", "300"]
    assert row(lines, kinds.REST) == ["0.00", "0%", "0"]
    assert row(lines, "all") == ["15.00", "309"]


def test_launches_and_waits_are_told_with_and_without_a_graph(report):
    lines = table.lines(report)
    assert (
        "without a graph: 1200 launches a step, 30 copies and fills, the host waits 1.5 times, cudaStreamSynchronize 1.5"
        in lines
    )
    assert "with a graph: 40 launches a step, 30 copies and fills, the host waits 0 times" in lines


def test_the_whole_step_is_measured_by_the_faster_way(report):
    # 10 GB in 10 ms, 1 TFLOP in 10 ms.
    assert row(table.lines(report), "bytes") == "10 GB 1e+03 GB/s 4e+03 GB/s 25%".split()
    assert row(table.lines(report), "operations") == "1 TFLOP 100 TFLOP/s 800 TFLOP/s 12%".split()


def test_without_a_gpu_nothing_of_one_is_told_and_it_says_so(report):
    on_cpu = replace(report, has_gpu=False, graph_ms=None, graph_profile=None, no_graph="they are for GPUs")
    lines = table.lines(on_cpu)
    assert "no GPU here: no columns of one, no kernels, no launches" in lines
    assert "no step with a CUDA graph: they are for GPUs" in lines
    assert not any("GPU ms" in line or "launches a step" in line for line in lines)
    assert row(lines, trace.FORWARD) == ["8.00", "40%"]
