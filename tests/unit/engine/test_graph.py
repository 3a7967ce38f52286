# SPDX-License-Identifier: AGPL-3.0-or-later
"""When a step is captured, when it is not, and what a batch looks like to a graph. Graphs themselves: tests/gpu/test_graph.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from tests.unit.engine.counted import Calls
from tests.unit.engine.lending import small_step
from yolov12.engine import graph
from yolov12.engine.attempt import Attempt, Batch
from yolov12.engine.graph import EAGER_STEPS, TIMED_STEPS, Captured, StepGraph, fill, room_for, why_not

GPU = torch.device("cuda")
EAGER, GRAPH = "eager", "graph"


def batch_of(images: int = 2, objects: int = 3) -> Batch:
    return {
        "img": torch.rand(images, 3, 8, 8),
        "batch_idx": torch.zeros(objects),
        "cls": torch.ones(objects, 1),
        "bboxes": torch.full((objects, 4), 0.5),
    }


class FakeClock:
    """Takes no time; says what it was made to say once enough was timed."""

    def __init__(self, ms: float) -> None:
        self.ms, self.runs = ms, 0

    def run(self, what: Callable[[], Any]) -> Any:
        self.runs += 1
        return what()

    def shortest_ms(self) -> float | None:
        return self.ms if self.runs >= TIMED_STEPS else None


class FakeClocks(dict[Any, FakeClock]):
    """One for each kind, which says the milliseconds that `ms` has for that many images."""

    def __init__(self, ms: Callable[[int], float]) -> None:
        super().__init__()
        self.ms = ms

    def __missing__(self, kind: Any) -> FakeClock:
        shape, *_ = kind
        return self.setdefault(kind, FakeClock(self.ms(shape[0])))


class Recorded:
    """In place of a graph."""

    def __init__(self, kind: Any, objects: int) -> None:
        self.kind, self.objects, self.graph = kind, objects, SimpleNamespace(pool=lambda: "pool")

    def has_room_for(self, batch: Batch) -> bool:
        return len(batch["batch_idx"]) <= self.objects

    def replay(self, batch: Batch) -> Any:
        return GRAPH


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> StepGraph:
    """A graph that would be on a GPU, and is always worth it."""
    made = StepGraph(nn.Linear(1, 1))
    made.is_off = False
    made._eager, made._replayed = FakeClocks(lambda _: 10.0), FakeClocks(lambda _: 5.0)  # type: ignore[assignment]  # as far as they are used
    monkeypatch.setattr(graph, "why_not", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(made, "_captured", lambda kind, batch, *_: Recorded(kind, 2 * len(batch["batch_idx"])))
    return made


def step(runs: StepGraph, batch: Batch | None = None, plan: str = "plan", no_room: str | None = None) -> Any:
    return runs.run(batch or batch_of(), plan, no_room, lambda _: EAGER)  # type: ignore[arg-type, return-value]  # a word for it


def test_a_step_is_captured_after_some_of_its_kind(runs):
    assert [step(runs) for _ in range(EAGER_STEPS + 2)] == [EAGER] * EAGER_STEPS + [GRAPH] * 2


def test_another_shape_runs_without_the_graph_and_leaves_it_there(runs):
    for _ in range(EAGER_STEPS + 1):
        step(runs)
    assert step(runs, batch_of(images=1)) == EAGER
    assert step(runs) == GRAPH


def epochs(runs: StepGraph, count: int, last: Batch) -> list[Any]:
    """What the last batch of each epoch of four ran as."""
    answers = []
    for _ in range(count):
        for _ in range(3):
            step(runs)
        answers.append(step(runs, last))
    return answers


def test_the_last_batch_of_an_epoch_gets_a_graph_in_the_same_memory_once_the_first_is_kept(runs, monkeypatch):
    captured, pools = runs._captured, []
    monkeypatch.setattr(runs, "_captured", lambda *given: (pools.append(given[3:]), captured(*given))[1])
    answers = epochs(runs, EAGER_STEPS + 3, batch_of(images=1))
    assert answers == [EAGER] * EAGER_STEPS + [GRAPH] * 3
    assert pools == [(), ("pool",)]
    assert step(runs) == GRAPH
    step(runs, batch_of(images=1, objects=100))  # more than it has room for
    assert runs.captured is None
    assert runs.smaller is None


@pytest.mark.parametrize(
    "other", [batch_of(images=4), batch_of() | {"img": torch.rand(1, 3, 8, 16)}], ids=["more", "wider"]
)
def test_other_batches_get_no_second_graph(runs, other):
    assert GRAPH not in epochs(runs, EAGER_STEPS + 3, other)


def test_a_last_batch_that_can_not_be_captured_says_why_once_and_the_others_keep_their_graph(runs, monkeypatch, capsys):
    captured = runs._captured

    def fails(kind: Any, batch: Batch, attempt: Any, pool: Any = None) -> Any:
        if pool is not None:
            raise RuntimeError("not this one")
        return captured(kind, batch, attempt)

    monkeypatch.setattr(runs, "_captured", fails)
    assert GRAPH not in epochs(runs, EAGER_STEPS + 3, batch_of(images=1))
    assert step(runs) == GRAPH
    assert capsys.readouterr().err.count("(RuntimeError: not this one)") == 1


def test_another_plan_ends_the_graph(runs):
    for _ in range(EAGER_STEPS + 1):
        step(runs)
    assert step(runs, plan="tighter") == EAGER
    assert runs.captured is None


def freeze(model: nn.Module) -> None:
    next(model.parameters()).requires_grad = False


@pytest.mark.parametrize("change", [freeze, nn.Module.eval])
def test_what_a_script_freezes_in_mid_run_ends_the_graph(runs, change):
    """Its replays would go on with gradients for a layer that has none any more, and without those of one that was thawed."""
    for _ in range(EAGER_STEPS + 1):
        step(runs)
    before = runs.captured
    change(runs.model)
    assert [step(runs) for _ in range(EAGER_STEPS + 1)] == [EAGER] * EAGER_STEPS + [GRAPH]
    frozen = runs.captured
    runs.model.requires_grad_(True).train()
    step(runs)
    assert len({id(graph) for graph in (before, frozen, runs.captured)}) == 3


def test_a_gain_of_the_loss_that_a_script_changes_ends_the_graph(runs):
    """They are numbers in the launches that it replays."""
    runs.model.criterion = SimpleNamespace(hyp=SimpleNamespace(box=7.5, cls=0.5, dfl=1.5))
    for _ in range(EAGER_STEPS + 1):
        step(runs)
    runs.model.criterion.hyp.box = 5.0
    assert [step(runs) for _ in range(EAGER_STEPS + 1)] == [EAGER] * EAGER_STEPS + [GRAPH]


def test_hooks_that_come_between_epochs_end_the_graph_with_the_reason(runs, capsys, monkeypatch):
    for _ in range(EAGER_STEPS + 1):
        step(runs)
    runs.look()
    assert step(runs) == GRAPH
    monkeypatch.setattr(graph, "why_not", lambda *_: "the model has hooks")
    runs.look()
    assert step(runs) == EAGER
    assert "step: no CUDA graph: the model has hooks" in capsys.readouterr().err


def test_more_objects_than_there_is_room_for_capture_it_anew(runs):
    for _ in range(EAGER_STEPS + 1):
        step(runs)
    crowd = batch_of(objects=100)
    assert [step(runs, crowd), step(runs, crowd)] == [EAGER, GRAPH]


def test_a_graph_that_is_slower_is_dropped_with_both_times(runs, capsys):
    runs._replayed = FakeClocks(lambda _: 10.1)  # type: ignore[assignment]  # as above
    for _ in range(EAGER_STEPS + TIMED_STEPS + 1):
        step(runs)
    assert runs.captured is None
    assert "no CUDA graph: 10.1 ms instead of 10.0 ms" in capsys.readouterr().err
    assert step(runs) == EAGER


def test_a_graph_is_compared_with_steps_of_its_own_kind(runs):
    """Where an epoch is one batch and a smaller one, both have been timed by then."""
    runs._eager = FakeClocks(lambda images: 5.0 * images)
    runs._replayed = FakeClocks(lambda _: 9.0)
    for _ in range(EAGER_STEPS + TIMED_STEPS + 1):
        step(runs, batch_of(images=2))
        step(runs, batch_of(images=1))
    assert runs.captured is not None


def test_a_step_that_fails_does_not_count(runs):
    def fails(_: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    for _ in range(EAGER_STEPS):
        with pytest.raises(RuntimeError):
            runs.run(batch_of(), "plan", None, fails)
        assert step(runs) == EAGER
    assert step(runs) == GRAPH


def test_a_graph_that_is_faster_says_so_once(runs, capsys):
    for _ in range(EAGER_STEPS + TIMED_STEPS + 5):
        step(runs)
    assert (
        capsys.readouterr().err
        == "step: runs as a CUDA graph: 5.0 ms instead of 10.0 ms for forward, loss and backward\n"
    )


def test_what_can_not_be_captured_runs_on_and_says_why(runs, capsys, monkeypatch):
    def fails(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(runs, "_captured", fails)
    assert [step(runs) for _ in range(EAGER_STEPS + 2)] == [EAGER] * (EAGER_STEPS + 2)
    assert capsys.readouterr().err.count("operation not permitted when stream is capturing)") == 1


def test_without_room_nothing_is_captured_and_the_reason_is_said_once(runs, capsys):
    for _ in range(EAGER_STEPS + 2):
        assert step(runs, no_room="memory is short (a test)") == EAGER
    assert capsys.readouterr().err == "step: no CUDA graph: memory is short (a test)\n"


def test_on_the_cpu_it_is_off():
    assert StepGraph(nn.Linear(1, 1)).is_off


@pytest.fixture(scope="module")
def model() -> Any:
    return DetectionModel("yolo12n.yaml", verbose=False)


def test_why_a_step_is_not_captured(model):
    assert why_not(model, torch.device("cpu"), "auto") == "it is for GPUs, and this is cpu"
    assert why_not(model, GPU, "0") == "compile=0"
    assert why_not(model, GPU, "auto") == "the loss does not run by our kernels alone"


def test_hooks_and_layers_of_somebody_else_are_reasons(model):
    class Mine(nn.Identity):
        pass

    handle = model.model[0].register_forward_hook(lambda *_: None)
    assert why_not(model, GPU, "auto") == "the model has hooks"
    handle.remove()
    mine = nn.Sequential(Mine())
    assert "whose Python may do something else each time" in (why_not(mine, GPU, "auto") or "")


def test_unused_rows_belong_to_no_image():
    held = room_for(batch_of(objects=3), 8)
    assert held["batch_idx"].tolist() == [0, 0, 0, -1, -1, -1, -1, -1]
    fill(held, batch_of(objects=1))
    assert held["batch_idx"].tolist() == [0, -1, -1, -1, -1, -1, -1, -1]


def test_a_copied_attempt_is_its_own():
    made = Attempt(torch.ones(()), {"box": torch.ones(())}, torch.ones(2))
    copied = made.copied()
    made.loss.zero_()
    made.items["box"].zero_()
    assert (copied.loss, copied.items["box"]) == (1, 1)
    assert copied.counts is not None
    assert copied.counts.tolist() == [1, 1]
    assert copied.lends_gradients
    assert not made.lends_gradients


def calls_of_a_step(layers: int) -> tuple[int, int]:
    """(torch's functions that Python calls, tensors that they make) in a step by a graph and in handing its gradients on."""
    step = small_step(layers)
    captured = Captured(
        kind=None,
        graph=SimpleNamespace(replay=lambda: None),  # type: ignore[arg-type]  # all that is asked of it
        batch=room_for(batch_of(), 8),
        attempt=Attempt(torch.ones(()), dict.fromkeys(("box", "cls", "dfl"), torch.ones(())), None),
        parameters=step.parameters,
        gradients=[torch.ones_like(parameter) for parameter in step.parameters],
    )
    step.graph = SimpleNamespace(run=lambda batch, *_: captured.replay(batch))  # type: ignore[assignment]  # as above
    for _ in range(2):
        with Calls() as calls:
            step.run(batch_of())
            step.take_gradients()
    assert all(p.grad is lent for p, lent in zip(step.parameters, captured.gradients, strict=True))
    return calls.count, calls.new_tensors


def test_neither_calls_nor_new_tensors_of_a_step_grow_with_the_model() -> None:
    few, many = calls_of_a_step(2), calls_of_a_step(40)
    assert many == few
    assert many[0] < 40
    assert many[1] < 20
