# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs of several rows tell after each, whatever came of it: a side that is stopped at its limit keeps what it told."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import answers, harness, training
from tests.unit.benchmarks.programs import job

PEAK = SimpleNamespace(words=lambda: "no GPU")
OF_A_MODEL = SimpleNamespace(step_ms=1.0, reserved_gib=1.0, note="")
PROGRAMS = {
    "attention": ("_stages_ms", {"p4": 1.0, "p5": 1.0}, ("attn_fwd_n_b256_bf16", "attn_fwdbwd_n_b256_bf16")),
    "memory": ("_measure", OF_A_MODEL, ("mem_free_n_b256", "fits_s_b256", "mem_half_n_b256")),
    "train_e2e": ("_train", (1.0, "", {}), ("train_e2e_n_b256", "train_e2e_s_b128")),
    "train_step": ("_measure", (1.0, PEAK), ("train_step_n_b64", "train_step_n_b256")),
}
"""What measures a row, what it finds, and rows."""


def told(name: str, rows: tuple[str, ...], scratch: Any) -> list[int]:
    """How many rows were told of, each time."""
    found: list[int] = []
    asked = job(name, "ours", rows, scratch, device="cpu")

    def tell(measured: harness.Measured) -> None:
        found.append(len(measured.values) + len(measured.failed))

    harness.discover()[name].run_side(dataclasses.replace(asked, tell=tell))
    return found


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have every program of `harness.discover` from now on this in place of its own."""
    discover = harness.discover

    def put(**functions: Any) -> None:
        def changed() -> dict[str, harness.Benchmark]:
            found = discover()
            for benchmark in found.values():
                benchmark.run_side.__globals__.update(functions)
            return found

        monkeypatch.setattr(harness, "discover", changed)

    return put


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_row_is_told_of(name, tmp_path, replaced, global_settings):
    measures, finds, rows = PROGRAMS[name]
    replaced(**{measures: lambda *_, **__: finds})
    assert told(name, rows, tmp_path) == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_without_room_too(name, tmp_path, replaced, global_settings):
    measures, _, rows = PROGRAMS[name]

    def without_room(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    replaced(**{measures: without_room})
    assert told(name, rows[:2], tmp_path) == [1, 2]


def test_predictions_do_so_and_each_row_is_compiled_as_if_it_were_the_first(tmp_path, monkeypatch, replaced):
    resets = []
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace(reset=lambda: resets.append(1)))
    monkeypatch.setattr(answers, "weights", lambda *_: "n.pt")
    monkeypatch.setattr(training, "yolo_class", lambda _: object)
    rows = ("infer_n_b1", "infer_s_b32")
    replaced(MEASURES={row: lambda load, asked: (1.0, "") for row in rows})
    assert told("infer", rows, tmp_path) == [1, 2]
    assert len(resets) == 2


def test_latencies_do_so(tmp_path, monkeypatch, replaced):
    monkeypatch.setattr(answers, "weights", lambda *_: "n.pt")
    monkeypatch.setattr(training, "yolo_class", lambda _: lambda weights: None)
    replaced(_measure=lambda case, model, asked, measured: measured.values.update({case.row: 1.0}))
    assert told("latency", ("latency_network_n_b1", "latency_boxes_s_b2"), tmp_path) == [1, 2]
