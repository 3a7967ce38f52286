# SPDX-License-Identifier: AGPL-3.0-or-later
"""The memory plan after a run's own first steps measured it, on a GPU: its prediction is what the next steps need.

python -m pytest -s tests/gpu/test_memory_measured.py
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import ModelEMA

from yolov12 import settings
from yolov12.engine import fit
from yolov12.engine.measure import MEASURED_STEPS, SKIPPED_STEPS
from yolov12.engine.patches import install_patches
from yolov12.engine.recompute import MOST_LEARNED, Recomputation
from yolov12.engine.step import Step
from yolov12.memory import budget
from yolov12.memory.budget import Memory
from yolov12.model import fused
from yolov12.model.fused.norm import kernels_missing

IMAGES, IMGSZ = 64, 640
CLOSE = 0.05
GIB = 2**30

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    install_patches()
    gc.collect()
    torch.cuda.empty_cache()
    yield
    fused.choose({})


def batch(images: int) -> dict[str, torch.Tensor]:
    boxes = 7 * images
    return {
        "img": torch.rand(images, 3, IMGSZ, IMGSZ, device="cuda"),
        "cls": torch.randint(80, (boxes, 1), device="cuda").float(),
        "bboxes": torch.cat([0.2 + 0.6 * torch.rand(boxes, 2), 0.05 + 0.2 * torch.rand(boxes, 2)], 1).cuda(),
        "batch_idx": torch.arange(images).repeat_interleave(7).float().cuda(),
    }


def trained(
    room: float,
    cache: Path,
    steps: int = MOST_LEARNED * (SKIPPED_STEPS + MEASURED_STEPS + 1) + 1,  # until no plan is measured any more
    images: int = IMAGES,
    card_bytes: int | None = None,
) -> Step:
    """Steps of yolov12n on a card with `room` of what a step needs with everything kept, or with `card_bytes`."""
    torch.manual_seed(0)
    device = torch.device("cuda", torch.cuda.current_device())
    model = DetectionModel("yolo12n.yaml", verbose=False).to(device, memory_format=torch.channels_last).train()
    model.args = get_cfg()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    ema = ModelEMA(model)
    data = batch(images)
    current = replace(settings.current(), mem_safety_ratio=0.0)
    recomputation = Recomputation(model, device, torch.bfloat16, current, cache=cache)
    recomputation.before(tuple(data["img"].shape))
    there_is = card_bytes or int(room * max(recomputation.known.profile.peaks))

    def small_card(of: torch.device) -> Memory:
        allocated = budget.read(of).allocated
        return Memory(there_is - allocated, allocated, allocated, 10**15)

    limited = Recomputation(model, device, torch.bfloat16, current, small_card, cache=cache)
    step = Step(
        model,
        forward_loss=model,
        autocast=lambda: torch.autocast("cuda", torch.bfloat16),
        scale_loss=lambda loss: loss,
        recomputation=limited,
    )
    for _ in range(steps):
        step.run(data)
        step.take_gradients()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
        torch.cuda.synchronize()  # so that the events have passed and the plan is made anew at a known step
    return step


def needed(step: Step) -> int:
    return max(step.peaks.step[phase] for phase in ("forward", "loss", "backward"))


def expected(step: Step) -> int:
    return step.recomputation.plan.peak_bytes + step.recomputation.grown_bytes


@pytest.mark.parametrize("room", [1.2, 0.75, 0.5, 0.35])
def test_the_prediction_is_within_five_percent_of_the_measured_peak(room: float, tmp_path: Path) -> None:
    step = trained(room, tmp_path)
    print(
        f"room {room}: needed {needed(step) / GIB:.2f} GiB, expected {expected(step) / GIB:.2f}, "
        f"{ {phase: round(size / GIB, 2) for phase, size in step.peaks.step.items()} }, measured {step.recomputation.known.measured is not None}"
    )
    assert step.recomputation.known.measured is not None
    assert abs(expected(step) / needed(step) - 1) <= CLOSE


def test_a_second_run_is_within_five_percent_from_its_second_step_on(tmp_path: Path) -> None:
    trained(0.5, tmp_path)
    step = trained(0.5, tmp_path, steps=SKIPPED_STEPS + 1)
    assert step.recomputation.known.measured is not None
    assert abs(expected(step) / needed(step) - 1) <= CLOSE


def test_the_batch_that_was_found_to_fit_needs_no_more_than_its_budget(tmp_path: Path) -> None:
    limit = 6 * GIB
    model = DetectionModel("yolo12n.yaml", verbose=False)
    found = fit.largest_batch(
        model,
        (IMGSZ, IMGSZ),
        torch.bfloat16,
        fit.bytes_to_come(model) + 4 * 2_600_000,
        limit,
        most_images=1024,
        loss_by_kernels=kernels_missing(torch.device("cuda", 0)) is None,
    )
    del model
    step = trained(1.0, tmp_path, images=found, card_bytes=limit)
    known = step.recomputation.known.profile
    inputs = {i for i, block in enumerate(known.blocks) if block.is_input}
    again = len(step.recomputation.plan.dropped - inputs)
    print(f"{found} images for {limit / GIB:.0f} GiB; {needed(step) / GIB:.2f} GiB needed, {again} convolutions again")
    assert needed(step) <= (1 + CLOSE) * limit
    assert again <= CLOSE * len(known.blocks)
