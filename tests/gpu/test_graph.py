# SPDX-License-Identifier: AGPL-3.0-or-later
"""A training step as a CUDA graph: the same weights to the bit, other shapes and more objects in between, and what is not captured.

python -m pytest tests/gpu/test_graph.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from tests.gpu.compiled import skip_without_code
from yolov12 import settings
from yolov12.engine import graph
from yolov12.engine.graph import EAGER_STEPS, StepGraph
from yolov12.engine.patches import install_patches
from yolov12.engine.recompute import Recomputation
from yolov12.engine.step import Step

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms; read at cuBLAS's first use

STEPS = EAGER_STEPS + 6


@pytest.fixture(autouse=True)
def deterministic_and_always_worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    skip_without_code()
    install_patches()
    monkeypatch.setattr(graph, "LEAST_GAIN", 0.0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.empty_cache()


def batch_of(images: int, objects: int, seed: int, imgsz: int = 160) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "img": torch.rand(images, 3, imgsz, imgsz, generator=generator).cuda(),
        "batch_idx": (torch.arange(objects) * images // max(objects, 1)).float().cuda(),
        "cls": torch.randint(3, (objects, 1), generator=generator).float().cuda(),
        "bboxes": torch.rand(objects, 4, generator=generator).mul(0.5).add(0.2).cuda(),
    }


class Trained:
    """A model and some steps of it."""

    def __init__(self, with_graph: bool, dtype: torch.dtype = torch.bfloat16, accumulate: int = 1) -> None:
        torch.manual_seed(0)
        self.model: Any = DetectionModel("yolo12n.yaml", nc=3, verbose=False).cuda()
        self.model.to(memory_format=torch.channels_last).train()
        self.model.args, self.accumulate = get_cfg(), accumulate
        recomputation = Recomputation(self.model, torch.device("cuda"), dtype, settings.current())
        self.scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
        self.step = Step(
            self.model,
            forward_loss=self.model,
            autocast=lambda: torch.autocast("cuda", dtype),
            scale_loss=self.scaler.scale,
            recomputation=recomputation,
            graph=StepGraph(self.model) if with_graph else None,
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.losses: list[Tensor] = []

    def run(self, batches: list[dict[str, Any]]) -> Trained:
        for i, batch in enumerate(batches):
            self.losses.append(self.step.run(batch).loss)
            if (i + 1) % self.accumulate == 0:
                self.step.take_gradients()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
        return self

    def state(self) -> list[Tensor]:
        return [*self.model.state_dict().values(), *self.losses]

    def is_captured(self) -> bool:
        return self.step.graph is not None and self.step.graph.captured is not None


def assert_equal_runs(batches: list[dict[str, Any]], **options: Any) -> Trained:
    plain, ours = Trained(False, **options).run(batches), Trained(True, **options).run(batches)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours.state(), plain.state(), strict=True))
    return ours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_a_captured_run_ends_with_the_same_bits(dtype):
    assert assert_equal_runs([batch_of(4, 11 + i, seed=i) for i in range(STEPS)], dtype=dtype).is_captured()


def held_bytes() -> int:
    """In use, or waiting until another stream has used it."""
    return torch.cuda.memory_stats()["active_bytes.all.current"]


def test_a_capture_that_breaks_says_why_and_leaves_nothing_behind(capsys):
    run = Trained(True)
    inner = run.step._whole_attempt

    def waits_in_the_middle(batch: dict[str, Any]) -> Any:
        attempt = inner(batch)
        attempt.loss.item()  # what no capture may
        return attempt

    run.step._whole_attempt = waits_in_the_middle
    stream = torch.cuda.current_stream()
    run.run([batch_of(4, 20, seed) for seed in range(STEPS)])
    assert not run.is_captured()
    said = capsys.readouterr().err
    assert "it can not be captured" in said
    assert "previous error" not in said
    assert torch.cuda.current_stream() == stream
    torch.rand(1, device="cuda")
    # Memory that another stream used too is given back: the allocator does not wait for the end of a capture.
    side = torch.cuda.Stream()
    before = held_bytes()
    for _ in range(3):
        crossed = torch.empty(2**20, device="cuda")
        crossed.record_stream(side)
        del crossed
        torch.cuda.synchronize()
    torch.empty(1, device="cuda")  # asking for memory is when the allocator looks
    assert held_bytes() < before + 2**20


def test_gradients_of_several_steps_add_up():
    assert assert_equal_runs([batch_of(4, 11, seed=i) for i in range(STEPS)], accumulate=3).is_captured()


def test_a_batch_of_another_shape_runs_beside_the_graph():
    batches = [batch_of(4, 11, seed=i) for i in range(STEPS)]
    batches[-3] = batch_of(3, 5, seed=99)
    assert assert_equal_runs(batches).is_captured()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_last_batch_of_each_epoch_has_a_graph_of_its_own(accumulate):
    batches = [batch_of(4, 11, seed=i) for i in range(4 * (EAGER_STEPS + 4))]
    for last in range(3, len(batches), 4):
        batches[last] = batch_of(2, 5, seed=last)
    ours = assert_equal_runs(batches, accumulate=accumulate)
    assert ours.step.graph is not None
    assert ours.step.graph.smaller is not None


def test_more_objects_than_the_graph_has_room_for():
    batches = [batch_of(4, 11, seed=i) for i in range(STEPS)]
    batches[-3] = batch_of(4, graph.LEAST_OBJECTS + 40, seed=99)
    assert assert_equal_runs(batches).is_captured()


def test_batches_without_objects():
    assert assert_equal_runs([batch_of(4, (i % 2) * 7, seed=i) for i in range(STEPS)]).is_captured()


def test_a_graph_that_is_not_faster_is_dropped(monkeypatch, capsys):
    monkeypatch.setattr(graph, "LEAST_GAIN", 1000.0)
    batches = [batch_of(4, 11, seed=i) for i in range(STEPS + graph.TIMED_STEPS)]
    run = Trained(True).run(batches[:-1])
    torch.cuda.synchronize()  # the steps have been timed, which nobody waits for
    assert not run.run(batches[-1:]).is_captured()
    assert "step: no CUDA graph: " in capsys.readouterr().err


def test_a_model_with_layers_of_somebody_else_is_not_captured(capsys):
    class Mine(nn.Identity):
        pass

    run = Trained(True)
    run.model.model[0].act = Mine()
    run.run([batch_of(2, 3, seed=i) for i in range(STEPS)])
    assert not run.is_captured()
    assert "whose Python may do something else" in capsys.readouterr().err


def test_forward_loss_and_backward_wait_for_nothing_once_captured():
    run = Trained(True).run([batch_of(4, 11, seed=i) for i in range(STEPS)])
    batch = batch_of(4, 9, seed=50)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step.run(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
