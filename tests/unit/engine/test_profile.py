# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a plan says that a step needs, beside the bytes that a real step's tensors take, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import DetectionModel

from tests.unit.model.loss_inputs import LiveBytes
from yolov12 import settings
from yolov12.engine import recompute
from yolov12.engine.patches import install_patches
from yolov12.engine.profile import profile
from yolov12.engine.recompute import Recomputation
from yolov12.engine.step import Step
from yolov12.memory.budget import Memory
from yolov12.memory.peaks import Peaks
from yolov12.model import fused
from yolov12.model.fused.trace import trace

CLOSE = 0.08
"""Before anything is measured, and with the CPU's operators; what the first steps measure is within 5 % (tests/gpu/test_memory_measured.py)."""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def our_convolutions() -> Iterator[None]:
    install_patches()
    yield
    fused.choose({})


class Meter:
    """An allocator for `Peaks` that sums up living tensors."""

    def __init__(self, live: LiveBytes) -> None:
        self.live = live

    def peak(self) -> tuple[int, int]:
        return self.live.peak, 0

    def reset(self) -> None:
        self.live.peak = sum(size for _, size in self.live._live.values())


def model_of(size: str) -> DetectionModel:
    made = DetectionModel(f"yolo12{size}.yaml", verbose=False).train()
    made.args = get_cfg()
    return made


def batch(images: int, side: int) -> dict[str, Any]:
    boxes = 2 * images
    return {
        "img": torch.rand(images, 3, side, side),
        "cls": torch.zeros(boxes, 1),
        "bboxes": torch.full((boxes, 4), 0.4),
        "batch_idx": torch.arange(images).repeat_interleave(2).float(),
    }


@pytest.mark.parametrize(
    ("size", "images", "share", "parts"),
    [
        ("n", 4, 2.0, 1),  # everything is kept
        ("n", 4, 0.4, 4),  # in parts, after others whose gradients are there
        ("s", 1, 2.0, 1),  # the gradients of the weights are most of it
        ("s", 2, 0.35, 2),
    ],
)
def test_a_step_needs_what_its_plan_says(
    size: str, images: int, share: float, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card with `share` of what the step needs with everything kept."""
    monkeypatch.setattr(recompute, "mode_for", lambda *_: ("planned", "as in a test"))
    model, data = model_of(size), batch(images, 128)
    there_is = int(share * max(profile(trace(model, tuple(data["img"].shape), torch.float32), 0).peaks))
    recomputation = Recomputation(
        model,
        CPU,
        torch.float32,
        replace(settings.current(), mem_safety_ratio=0.0),
        lambda device: Memory(there_is, 0, 0, 10**15),
    )
    step = Step(
        model, forward_loss=model, autocast=nullcontext, scale_loss=lambda loss: loss, recomputation=recomputation
    )
    recomputation.before(tuple(data["img"].shape))  # tracing and planning are not what is measured
    with LiveBytes() as live:
        step.peaks = Peaks(Meter(live))
        step.run(data)
    needed, expected = max(step.peaks.step.values()), recomputation.plan.peak_bytes
    assert recomputation.plan.parts == parts
    assert expected == pytest.approx(needed, rel=CLOSE)


def test_gradients_of_weights_gather_in_backward_and_those_of_frozen_ones_do_not() -> None:
    model = model_of("n")
    shape = (1, 3, 64, 64)
    whole = profile(trace(model, shape, torch.float32), 0).of_weights
    assert whole[0] == 0  # computing in float32 needs no copies of the weights
    assert whole[-2] == 4 * sum(m.weight.numel() for m in _convolutions(model))
    for layer in model.model[:9]:
        layer.requires_grad_(False)
    frozen = profile(trace(model, shape, torch.float32), 0).of_weights
    assert frozen[-2] == 4 * sum(m.weight.numel() for m in _convolutions(model) if m.weight.requires_grad)


def test_under_autocast_each_weight_has_a_copy_from_forward_on() -> None:
    model = model_of("n")
    of_weights = profile(trace(model, (1, 3, 64, 64), torch.bfloat16), 0).of_weights
    assert of_weights[0] == 2 * sum(m.weight.numel() for m in _convolutions(model))


def _convolutions(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module.conv for module in model.modules() if isinstance(module, Conv)]
