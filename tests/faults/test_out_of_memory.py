# SPDX-License-Identifier: AGPL-3.0-or-later
"""The benchmark `oom_faults` on the CPU: two processes, failures made up from a fixed seed, the real trainer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import faults, harness
from benchmarks.harness import Job

TINY = """
nc: 3
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[3, 4, 5], 1, Detect, [nc]]
"""


@pytest.mark.timeout(600)  # three runs in two processes, some forty seconds of one core
def test_two_processes_survive_every_failure_with_each_sample_seen_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    program = harness.discover()["oom_faults"]
    small = {
        "device": "cpu",
        "model": str(tmp_path / "tiny.yaml"),
        "imgsz": 128,  # activations count beside the gradients of the weights, so that recomputation can answer
        "batch": 4,
        "steps_per_epoch": 6,
        "epochs": 2,
        "val_images": 4,
        "workers": 0,
        "failures": 20,
        "optimizer": "SGD",
        "loss_tolerance": 0.5,  # batch norm sees single images of two, and a sixth of the run is two steps
        "limit_s": 500.0,
    }
    (tmp_path / "scratch").mkdir()
    job = Job("ours", {**program.parameters, **small}, ("oom_faults",), tmp_path / "scratch", time.monotonic())
    measured = program.run_side(job)
    assert measured.values["oom_faults"] == 1.0, measured.notes["oom_faults"]


def test_the_same_seed_draws_the_same_failures_of_every_kind_at_every_point() -> None:
    kinds = faults.kinds_for("cuda", 100)
    drawn = faults.draw(0, 100, steps=300, epochs=6, ranks=2, kinds=kinds)
    assert drawn == faults.draw(0, 100, steps=300, epochs=6, ranks=2, kinds=kinds)
    assert drawn != faults.draw(1, 100, steps=300, epochs=6, ranks=2, kinds=kinds)
    assert len(drawn) == 100
    assert {fault.point for fault in drawn} == {
        *faults.STEP_POINTS,
        *faults.UPDATE_POINTS,
        *faults.VALIDATION_POINTS,
    }
    assert sum(fault.kind == "real" for fault in drawn) >= 30
    assert {"cudnn", "cublas", "allocator"} <= {fault.kind for fault in drawn}
    assert {fault.rank for fault in drawn} == {0, 1}


def judged(**changes: dict) -> tuple[float, str]:
    """A run of two steps without trouble, with changes to one of its sessions."""
    plain = {
        "samples": [["a"], ["b"]],
        "losses": [1.0, 1.0],
        "weights": "w",
        "fired": [],
        "events": {},
        "metrics": {"metrics/mAP": 0.5},
    }
    fired = [{"kind": "real", "point": "loss"}]
    answer = {
        "clean": plain,
        "recomputed": {**plain, "events": {"plan": 1}, "fired": fired},
        "faulty": {**plain, "fired": fired, "weights": "other"},
    }
    from benchmarks.programs import oom_faults

    return oom_faults.judge(
        [{name: {**run, **changes.get(name, {})} for name, run in answer.items()}], [1], [1, 2], 0.1, ""
    )


def test_the_value_is_the_share_of_failures_that_happened_and_were_survived() -> None:
    assert judged()[0] == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clean": {"samples": [["a"], ["a"], ["b"]]}}, "lost or repeated"),
        ({"faulty": {"samples": [["b"], ["a"]]}}, "faulty saw other samples"),
        ({"recomputed": {"weights": "v"}}, "other weights"),
        ({"recomputed": {"fired": []}}, "1 of the failures of recomputed did not happen"),
        ({"recomputed": {"events": {"plan": 1, "split": 1}}}, "cut its batch 1 times"),
        ({"recomputed": {"metrics": {"metrics/mAP": 0.4}}}, "the metrics of recomputed"),
        ({"faulty": {"losses": [1.0, 1.2]}}, "the loss was off by 20.0%"),
    ],
)
def test_what_must_not_happen_makes_the_value_zero(changes: dict, said: str) -> None:
    share, note = judged(**changes)
    assert share == 0.0
    assert said in note
