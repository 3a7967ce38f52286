# SPDX-License-Identifier: AGPL-3.0-or-later
"""`bench step` on a GPU: its own counts have to agree with each other.

python -m pytest tests/gpu/test_bench_step.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ultralytics.nn.tasks import yaml_model_load

from benchmarks.step import ceilings, collect, kinds, subject, trace

STEPS = 4


@pytest.fixture(scope="module")
def found() -> subject.Subject:
    made = subject.on_drawn_batch(yaml_model_load("yolo12n.yaml"), 8, 320, torch.device("cuda", 0))
    collect.warm(made, 20)
    return made


def test_every_kernel_has_a_phase_and_most_have_a_kind(found: subject.Subject, tmp_path: Path):
    profile = collect.profiled(found, STEPS, tmp_path / "trace.json.gz")
    of_phases = sum(spent.device_ms for spent in profile.phases.values())
    of_kinds = sum(spent for spent, _ in profile.kinds.values())
    assert of_phases == pytest.approx(of_kinds)
    assert 0 < profile.busy_ms <= min(of_kinds * 1.001, profile.wall_ms)
    assert profile.kinds[kinds.REST][0] < 0.15 * of_kinds
    for phase in (trace.FORWARD, trace.LOSS, trace.BACKWARD, trace.UPDATE):
        assert profile.phases[phase].device_ms > 0
    # Each kernel was launched by the host: none is missed, none counted twice.
    own = sum(calls for kind, (_, calls) in profile.kinds.items() if kind not in (kinds.COPY, kinds.FILL))
    everything = sum(calls for _, calls in profile.kinds.values())
    assert own <= profile.launches <= everything
    assert profile.launches + profile.transfers == pytest.approx(everything, rel=0.02)


def test_the_work_of_backward_is_about_twice_that_of_forward(found: subject.Subject):
    work = collect.counted(found)
    assert 1.7 < work.operations[trace.BACKWARD] / work.operations[trace.FORWARD] < 2.3
    assert work.moved[trace.BACKWARD] > work.moved[trace.FORWARD] > 0


def test_nothing_beats_the_ceilings(found: subject.Subject, tmp_path: Path):
    best = ceilings.measured(found.device, found.dtype)
    step_ms = collect.timed_ms(found, STEPS)
    work = collect.counted(found)
    assert sum(work.operations.values()) / step_ms * 1000 < best.operations_per_s


def test_a_graph_is_one_launch_for_most_of_the_step(found: subject.Subject, tmp_path: Path):
    without = collect.profiled(found, STEPS, tmp_path / "without.json.gz")
    found.step.graph = found.graph
    collect.warm(found, 24)
    if found.graph is None or found.graph.captured is None:
        pytest.skip("the graph was not kept here; the log says why")
    within = collect.profiled(found, STEPS, tmp_path / "within.json.gz")
    assert within.launches < without.launches / 4
    # On one H200 7.0 ms within a graph and 5.3 without (mended_tests.log of 2026-11-30), for kernels of a few microseconds: why is not known.
    assert within.busy_ms == pytest.approx(without.busy_ms, rel=0.5)
