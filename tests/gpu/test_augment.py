# SPDX-License-Identifier: AGPL-3.0-or-later
"""Augmentation on a GPU: the kernels and the plain path against the CPU's, and that nothing waits.

python -m pytest tests/gpu/test_augment.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.unit.data.augment.test_parity import IMGSZ, many
from yolov12.data.augment import Hyperparameters, Recipe, Source, backends, draw, render
from yolov12.data.augment.backends import Backend

HYP = Hyperparameters(
    imgsz=IMGSZ,
    mosaic=0.7,
    mixup=0.5,
    cutmix=0.5,
    degrees=20.0,
    translate=0.1,
    scale=0.5,
    shear=5.0,
    flipud=0.5,
    fliplr=0.5,
    bgr=0.3,
    hsv_h=0.015,
    hsv_s=0.7,
    hsv_v=0.4,
)


def batch(hyp: Hyperparameters) -> tuple[Recipe, dict[int, Source], dict[int, Source]]:
    """A recipe, and its pictures on the CPU and on the GPU."""
    rng = np.random.default_rng(0)
    sources = many(rng, 20)
    recipe = draw(rng, np.arange(16), hyp, lambda rng, count: rng.integers(20, size=count))
    there = {i: Source(source.image.cuda(), source.classes, source.boxes) for i, source in sources.items()}
    return recipe, sources, there


@pytest.fixture(params=["kernels", "plain"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    device = torch.device("cuda", torch.cuda.current_device())
    if request.param == "plain":
        monkeypatch.setattr(backends, "choose", lambda device: backends.PLAIN)
    elif reason := backends.why_plain(torch.cuda.get_device_capability(device)):
        pytest.skip(reason)
    return backends.choose(device)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """torch raises an error where the host would wait for the GPU."""
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("perspective", [0.0, 0.0005])
def test_pixels_are_the_cpus_within_two_grey_levels(backend, perspective):
    recipe, here, there = batch(dataclasses.replace(HYP, perspective=perspective))
    expected, rendered = render(recipe, here, "cpu"), render(recipe, there, "cuda")
    distance = (rendered.img.cpu().int() - expected.img.int()).abs()
    assert (distance > 2).float().mean() <= 0.001
    assert torch.equal(rendered.bboxes, expected.bboxes)
    assert rendered.bboxes.device.type == "cpu"


@pytest.mark.parametrize("deterministic", [True, False])
def test_nothing_waits_for_the_gpu(backend, no_waiting, deterministic):
    torch.use_deterministic_algorithms(deterministic)
    recipe, _, there = batch(HYP)
    render(recipe, there, "cuda")  # compiles, and copies constants
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    render(recipe, there, "cuda")


def test_the_bits_repeat(backend):
    recipe, _, there = batch(HYP)
    assert torch.equal(render(recipe, there, "cuda").img, render(recipe, there, "cuda").img)
