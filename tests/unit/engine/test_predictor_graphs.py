# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a predictor keeps for its graphs and what drops them: weights that move, hooks, the predictor's own end. A stand-in replays them."""

from __future__ import annotations

import gc
import weakref

from tests.unit.engine import predicting as shared
from tests.unit.engine.predicting import IMGSZ, assert_same, both, predicted
from yolov12.engine import network

model, pictures, folder, pool, elsewhere = shared.model, shared.pictures, shared.folder, shared.pool, shared.elsewhere


def test_hooks_are_called_for_every_picture(model, pictures, pool):
    predicted(model, pictures[0])
    heard: list[int] = []
    handle = model.predictor.model.model.model[-1].register_forward_pre_hook(lambda *_: heard.append(1))
    for _ in range(3):
        predicted(model, pictures[0])
    assert len(heard) == 3
    handle.remove()
    predicted(model, pictures[0])
    predicted(model, pictures[0])
    assert len(heard) == 3
    assert pool.replays > 0


def test_a_graph_keeps_the_weights_and_anchors_that_it_reads(model, pictures, pool):
    for _ in range(2):
        predicted(model, pictures[0])
    captured = next(one for one in pool.captured if one.held.shape[1] == 3)
    held = {tensor.data_ptr() for tensor in captured.reads}
    inside = model.predictor.model.backend.model
    assert {parameter.data_ptr() for parameter in inside.parameters()} <= held
    assert inside.model[-1].anchors.data_ptr() in held


def test_weights_that_move_are_captured_anew(model, pictures, pool):
    for _ in range(2):
        predicted(model, pictures[0])
    before = predicted(model, pictures[0])
    for parameter in model.predictor.model.backend.model.parameters():
        parameter.data = parameter.data.clone()
    for _ in range(3):
        assert_same(predicted(model, pictures[0]), before)
    assert sum(one.held.shape[1] == 3 for one in pool.captured) == 2


def test_a_large_batch_runs_as_it_is(model, folder, pool, monkeypatch):
    monkeypatch.setattr(network, "MOST_PIXELS", 2 * IMGSZ * IMGSZ)
    both(model, str(folder), batch=3, rect=False)
    assert not any(one.held.shape[1] == 3 for one in pool.captured if len(one.held) == 3)


def test_compile_0_captures_nothing_and_says_so(model, folder, pool, monkeypatch, capsys):
    monkeypatch.setenv("YOLOV12_COMPILE", "0")
    both(model, str(folder))
    assert not pool.captured
    assert "predict: no CUDA graph: compile=0" in capsys.readouterr().err


def test_a_failed_capture_changes_no_answer(model, folder, pool, capsys):
    pool.fails = RuntimeError("cudaErrorStreamCaptureUnsupported")
    both(model, str(folder))
    assert capsys.readouterr().err.count("predict: no CUDA graph: RuntimeError: cudaErrorStreamCaptureUnsupported") == 1


def test_hooks_on_the_backend_around_a_network_are_called(model, folder, pool):
    source, calls = str(folder / "0.png"), []
    predicted(model, source)
    handle = model.predictor.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        for _ in range(3):
            predicted(model, source)
    finally:
        handle.remove()
    assert len(calls) == 3


def test_a_predictor_that_is_let_go_of_is_gone_at_once(model, folder, pool):
    """With its graphs: a GPU's memory must not wait for Python to look for cycles."""
    predicted(model, str(folder))
    gone = weakref.ref(model.predictor)
    gc.collect()
    gc.disable()
    try:
        model.predictor = None
        assert gone() is None
    finally:
        gc.enable()
