# SPDX-License-Identifier: AGPL-3.0-or-later
"""`bench step` on the CPU, from what is typed to the table and the trace, with a model of six layers."""

from __future__ import annotations

import gzip
import json
import os
from types import SimpleNamespace

import pytest
import torch

import benchmarks.__main__ as benchmarks
from benchmarks.step import ceilings, collect, command, trace
from yolov12 import settings

MODEL = """
nc: 3
scales:
  n: [0.5, 0.25, 1024]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 2, A2C2f, [256, True, 1]]
head:
  - [-1, 1, Conv, [64, 3, 2]]
  - [[3, 4], 1, Detect, [nc]]
"""


@pytest.fixture(autouse=True)
def as_before():
    """Put back what the command sets for its whole process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    settings._read.cache_clear()
    settings._chosen.cache_clear()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A model's file; ceilings take an instant."""
    monkeypatch.setattr(ceilings, "COPIED_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(ceilings, "PRODUCT_SIZE", {"cpu": 64})
    path = tmp_path / "tinyn.yaml"
    path.write_text(MODEL)
    return path


def test_a_step_on_the_cpu_is_told_by_phases_and_written_as_a_trace(small, tmp_path, capsys):
    words = f"step model={small} batch=2 imgsz=64 device=cpu steps=1 out={tmp_path / 'out'}".split()
    assert benchmarks.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tinyn.yaml, batch 2 at 64 px, float32, on the CPU" in lines
    assert "no GPU here: no columns of one, no kernels, no launches" in lines
    host_ms = {
        phase: float(line.removeprefix(phase).split()[0])
        for phase in trace.PHASES[3:]
        for line in lines
        if line.startswith(phase + "  ")
    }
    assert set(host_ms) == set(trace.PHASES[3:])
    assert min(host_ms[phase] for phase in (trace.FORWARD, trace.LOSS, trace.BACKWARD, trace.UPDATE)) > 0
    with gzip.open(tmp_path / "out" / command.EAGER, "rt") as file:
        events = json.load(file)["traceEvents"]
    bars = [event["name"] for event in events if event.get("cat") == "phase"]
    order = [trace.DATA, trace.UPLOAD, trace.BEFORE, trace.FORWARD, trace.LOSS, trace.BACKWARD, trace.REDUCE]
    assert bars == [*order, trace.UPDATE, trace.DRAIN]
    assert any(event.get("cat") == "cpu_op" for event in events)


@pytest.mark.slow  # a whole set-up of a training
def test_a_step_on_a_data_set_has_phases_of_data(small, tmp_path, capsys):
    from yolov12.data import synth

    data = synth.write(tmp_path / "data", n_train=8, n_val=2, imgsz=64)
    words = f"step model={small} data={data} data_pipeline=gpu batch=2 imgsz=64 device=cpu steps=3 out={tmp_path}"
    assert benchmarks.main([*words.split(), "workers=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (augment,) = [line for line in lines if line.startswith("augment  ")]
    assert float(augment.split()[1]) > 0
    assert "augment: in the loader's thread, beside the other phases" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("steps=0", "steps=0: type a whole number"),
        ("stepz=3", "stepz"),
        ("model=there-is-none.yaml", "there-is-none.yaml"),
        ("batch=0.5 device=cpu", "without data= type whole numbers"),
        ("device=auto", "device=auto: bench step looks at one process"),
        ("data=there-is-none.yaml", "there is no such file"),
        ("out=/proc/x", "name one with out=FOLDER"),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(words.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


class OnGpu:
    """What `command` needs of a subject on a GPU; its graph is kept or not."""

    device = torch.device("cuda")
    dtype = torch.bfloat16
    words, is_drawn = "drawn", True

    def __init__(self, keeps_graph: bool) -> None:
        self.step = SimpleNamespace(graph=None)
        self.graph = SimpleNamespace(captured="a graph" if keeps_graph else None)


@pytest.fixture
def collected(monkeypatch) -> list[tuple[str, bool]]:
    """Stands in for what runs on a GPU; what was called, and whether the step could have a graph then."""
    calls: list[tuple[str, bool]] = []

    def noting(name: str, answer: object):
        def call(subject: OnGpu, *arguments: object, **named: object) -> object:
            calls.append((name, subject.step.graph is not None))
            return answer

        monkeypatch.setattr(collect, name, call)

    for name in ("warm", "timed_ms", "counted", "profiled"):
        noting(name, f"by {name}")
    monkeypatch.setattr(ceilings, "measured", lambda *_: "ceilings")
    return calls


def test_a_gpu_is_looked_at_without_a_graph_and_then_with_one(collected, tmp_path):
    report = command._looked_at(OnGpu(keeps_graph=True), 10, tmp_path, "title")
    without, within = ("warm", "timed_ms", "counted", "profiled"), ("warm", "timed_ms", "profiled")
    assert collected == [(name, False) for name in without] + [(name, True) for name in within]
    assert (report.graph_ms, report.graph_profile) == ("by timed_ms", "by profiled")


def test_a_graph_that_was_not_kept_is_not_measured_and_it_is_said(collected, tmp_path):
    report = command._looked_at(OnGpu(keeps_graph=False), 10, tmp_path, "title")
    assert collected[-1] == ("warm", True)
    assert report.graph_ms is report.graph_profile is None
    assert "it was not kept" in report.no_graph
