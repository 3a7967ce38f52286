# SPDX-License-Identifier: AGPL-3.0-or-later
"""When a function is captured, replayed, forgotten and given up. Graphs themselves: tests/gpu/test_predict.py."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.unit.engine.stand_in_pool import StandInPool
from yolov12.engine import replays
from yolov12.engine.network import read_by
from yolov12.engine.replays import MOST_GRAPHS, Replays, foreign_layer
from yolov12.memory.failure import release_memory


def doubled(x: Tensor, plus: int = 0) -> Tensor:
    return 2 * x + plus


@pytest.fixture
def pool() -> StandInPool:
    return StandInPool()


def numbers(width: int, value: float = 1.0) -> Tensor:
    return torch.full((2, width), value)


def test_the_first_call_of_a_shape_runs_as_it_is_and_the_second_is_captured(pool):
    run = Replays("double", doubled, pool)
    assert torch.equal(run(numbers(3)), numbers(3, 2))
    assert not pool.captured
    assert [run(numbers(3, value))[0, 0].item() for value in (2.0, 3.0, 4.0)] == [4, 6, 8]
    assert (len(pool.captured), pool.replays) == (1, 3)


@pytest.mark.parametrize(
    "other",
    [numbers(4), numbers(3).double(), numbers(2)[:, :1].expand(-1, 3)],
    ids=["another shape", "another dtype", "other strides"],
)
def test_what_kernels_depend_on_tells_graphs_apart(pool, other):
    run = Replays("double", doubled, pool)
    for _ in range(3):
        assert torch.equal(run(numbers(3)), numbers(3, 2))
        assert torch.equal(run(other), 2 * other)
    assert len(pool.captured) == 2


def test_options_reach_the_function_and_tell_graphs_apart(pool):
    run = Replays("double", doubled, pool)
    assert [[run(numbers(1), plus)[0, 0].item() for plus in (5, 7)] for _ in range(3)] == [[7, 9]] * 3
    assert len(pool.captured) == 2


def test_what_is_written_where_the_last_graph_reads_is_not_copied(pool):
    run = Replays("double", doubled, pool)
    with torch.inference_mode():
        assert run.input_like((2, 3), torch.float32) is None, "there is no graph yet"
        for _ in range(2):
            run(numbers(3))
        held = run.input_like((2, 3), torch.float32)
        assert torch.equal(run(held.fill_(5)), numbers(3, 10.0))
        assert pool.captured[0].copies == 1
        assert torch.equal(run(numbers(3, 6.0)), numbers(3, 12.0))
        assert pool.captured[0].copies == 2
        # Another graph, or none, takes it as any other tensor.
        assert [run(held.fill_(7), 1)[0, 0].item() for _ in range(3)] == [15, 15, 15]


def test_only_the_last_graph_lends_what_it_reads_and_only_for_what_fits_in_inference_mode(pool):
    run = Replays("double", doubled, pool)
    with torch.inference_mode():
        for x in (numbers(3), numbers(4), torch.ones(5, 2).t()):
            for _ in range(2):
                run(x)
            if x.is_contiguous():
                assert run.input_like(x.shape, torch.float32) is not None
                assert run.input_like(x.shape, torch.float16) is None
                assert run.input_like((2, 9), torch.float32) is None
        assert run.input_like((2, 5), torch.float32) is None, "it is not contiguous"
        run(numbers(4))
        assert run.input_like((2, 4), torch.float32) is not None
        assert run.input_like((2, 3), torch.float32) is None
    assert run.input_like((2, 4), torch.float32) is None


def test_the_least_recently_used_makes_room_and_must_come_twice_as_often_then(pool):
    run = Replays("double", doubled, pool)
    widths = range(1, MOST_GRAPHS + 1)
    for width in (*widths, *widths, 1):  # all are captured, and 1 was used last
        run(numbers(width))
    for _ in range(2):
        run(numbers(99))
    assert len(run) == MOST_GRAPHS
    before = len(pool.captured)
    run(numbers(1))
    assert len(pool.captured) == before, "1 was used more recently than 2"
    calls = 0
    while len(pool.captured) == before:
        run(numbers(2))
        calls += 1
    assert calls == 3, "two calls as they are, and the one that captures"


def test_what_can_not_be_captured_is_said_once_and_runs_as_it_is(pool, capsys):
    pool.fails = RuntimeError("operation not permitted when stream is capturing\nand more")
    run = Replays("double", doubled, pool)
    for _ in range(4):
        assert torch.equal(run(numbers(3)), numbers(3, 2))
    assert capsys.readouterr().err == (
        "double: no CUDA graph: RuntimeError: operation not permitted when stream is capturing\n"
    )
    assert run.off is not None


def test_memory_that_does_not_suffice_is_called_so(pool, capsys):
    pool.fails = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    run = Replays("double", doubled, pool)
    run(numbers(1))
    run(numbers(1))
    assert capsys.readouterr().err == "double: no CUDA graph: out of memory\n"


def test_where_room_is_made_graphs_are_dropped_and_made_again_later(pool):
    run = Replays("double", doubled, pool)
    for _ in range(2):
        run(numbers(3))
    release_memory()
    assert (len(run), pool.releases) == (0, 1)
    run(numbers(3))
    assert len(run) == 0
    assert torch.equal(run(numbers(3)), numbers(3, 2))
    assert len(run) == 1


def test_dropping_nothing_gives_nothing_back(pool):
    Replays("double", doubled, pool).drop()
    assert pool.releases == 0


def test_nothing_keeps_a_function_and_its_graphs_alive(pool):
    """Memory of a GPU must not wait for the collector of cycles."""
    run = Replays("double", doubled, pool)
    for _ in range(2):
        run(numbers(3))
    gc.disable()
    try:
        gone = weakref.ref(run)
        del run
        assert gone() is None
    finally:
        gc.enable()


class Remembers(nn.Module):
    """As a detection head: keeps the anchors of the shape that it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.anchors = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.anchors.shape != x.shape:
            self.anchors = torch.ones(x.shape)
        return x + self.anchors


def test_a_graph_keeps_the_tensors_that_it_reads(pool):
    """Another shape takes the anchors' place in the module, between its first call and the one that captures too."""
    module = Remembers()
    run = Replays("remember", module, pool, partial(read_by, module))
    for width in (3, 5, 3, 5):
        run(numbers(width))
    captured = [one for one in pool.captured if one.held.shape[1] == 3]
    assert [tensor.shape for tensor in captured[0].reads if tensor.dim() == 2 and len(tensor) == 2] == [(2, 3)]


def test_weights_are_held_as_memory_that_a_cast_leaves_alone():
    module = nn.Linear(2, 2)
    held = read_by(module)
    module.half()
    assert all(tensor.dtype is torch.float32 for tensor in held)


def test_layers_of_somebody_else_are_a_reason():
    class Mine(nn.Identity):
        pass

    assert foreign_layer(nn.Sequential(nn.ReLU())) is None
    assert "whose Python may do something else each time" in (foreign_layer(nn.Sequential(Mine())) or "")


def test_a_shape_is_captured_at_its_second_call():
    assert replays.SEEN_BEFORE == 1, "docs/predict.md says so"
