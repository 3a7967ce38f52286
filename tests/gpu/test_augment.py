# SPDX-License-Identifier: AGPL-3.0-or-later
"""Augmentation on a GPU: each kind of kernels and the plain path against the CPU's, and that nothing waits.

The wheel `yolov12_kernels` may be installed, or unpacked in a folder on PYTHONPATH (docs/kernels.md says how to build it).

python -m pytest tests/gpu/test_augment.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.unit.data.augment.test_parity import IMGSZ, many
from tests.unit.data.augment.test_warp import SIZE, layers_of
from yolov12.data.augment import Hyperparameters, Recipe, Source, backends, colour, draw, render, warp
from yolov12.data.augment.backends import Backend
from yolov12.data.augment.warp import Layers

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
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GAINS = np.array([[0.1, 0.5, -0.4], [0, 0, 0], [-0.9, -1, 1]])


def batch(hyp: Hyperparameters) -> tuple[Recipe, dict[int, Source], dict[int, Source]]:
    """A recipe, and its pictures on the CPU and on the GPU."""
    rng = np.random.default_rng(0)
    sources = many(rng, 20)
    recipe = draw(rng, np.arange(16), hyp, lambda rng, count: rng.integers(20, size=count))
    there = {i: Source(source.image.cuda(), source.classes, source.boxes) for i, source in sources.items()}
    return recipe, sources, there


def backend_of(name: str) -> Backend:
    """One of `backends.KERNELS`, or torch's operations; skips the test, with the reason, where it does not serve this GPU."""
    kernels = backends.KERNELS.get(name)
    if kernels is None:
        return backends.PLAIN
    if reason := kernels.why_not(torch.cuda.get_device_capability()):
        pytest.skip(f"{name}: {reason}")
    return kernels.make()


@pytest.fixture(params=[*backends.KERNELS, "torch's operations"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    made = backend_of(request.param)
    monkeypatch.setattr(backends, "choose", lambda device: made if device.type == "cuda" else backends.PLAIN)
    return made


@pytest.fixture
def by_cuda() -> Backend:
    return backend_of("CUDA kernels")


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


def test_the_best_kernels_that_serve_this_gpu_are_chosen():
    name, _ = backends.decide(torch.cuda.get_device_capability())
    assert backends.choose(GPU) == backend_of(name)


# ---- the compiled kernels ----


def drawn(perspective: float = 0.0, size: int = SIZE, seed: int = 3) -> Layers:
    """Random layers on the CPU, turned and sheared; the output of another size than the pictures."""
    hyp = Hyperparameters(
        imgsz=SIZE, mosaic=0.5, degrees=45.0, scale=0.6, shear=20.0, translate=0.4, perspective=perspective
    )
    layers, _ = layers_of(hyp, seed, count=8)
    return layers._replace(size=size)


def on_gpu(layers: Layers) -> Layers:
    return layers._replace(pictures=[picture.to(GPU) for picture in layers.pictures])


def noise(side: int) -> torch.Tensor:
    """(3, 3, side, side), with greys in it."""
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, :, :16] = images[0, :1, :16]
    return images


def assert_equal(made: torch.Tensor, expected: torch.Tensor) -> None:
    distance = (made.cpu().int() - expected.int()).abs()
    assert distance.max() == 0, f"{(distance > 0).float().mean():.6f} differ, by at most {distance.max()} grey levels"


@pytest.mark.parametrize("perspective", [0.0, 0.002])
@pytest.mark.parametrize("size", [SIZE, 61, 33, 640])
def test_layers_are_the_cpus_to_the_bit(by_cuda, perspective, size):
    layers = drawn(perspective, size)
    assert_equal(by_cuda.warp(on_gpu(layers), GPU), warp.warp(layers, CPU))


@pytest.mark.parametrize("side", [SIZE, 61, 16, 1, 640])
def test_colours_are_the_cpus_to_the_bit(by_cuda, side):
    images = noise(side)
    assert_equal(by_cuda.recolour(images.to(GPU), GAINS), colour.recolour(images, GAINS))


def test_images_that_begin_at_any_byte_are_recoloured_too(by_cuda):
    images = noise(SIZE)
    room = torch.empty(images.numel() + 5, dtype=torch.uint8, device=GPU)[5:].view(images.shape).copy_(images)
    assert_equal(by_cuda.recolour(room, GAINS), colour.recolour(images, GAINS))


def test_a_whole_batch_is_the_cpus_to_the_bit(by_cuda, monkeypatch):
    recipe, here, there = batch(HYP)
    expected = render(recipe, here, "cpu").img
    monkeypatch.setattr(backends, "choose", lambda device: by_cuda)
    assert_equal(render(recipe, there, "cuda").img, expected)


@pytest.mark.parametrize("perspective", [0.0, 0.002])
def test_tritons_are_at_most_a_grey_level_away(by_cuda, perspective):
    """Triton fuses a product and the sum that it goes into, here they are rounded as torch's operations do."""
    by_triton = backend_of("Triton kernels")
    layers = on_gpu(drawn(perspective))
    images = noise(SIZE).to(GPU)
    for mine, theirs in (
        (by_cuda.warp(layers, GPU), by_triton.warp(layers, GPU)),
        (by_cuda.recolour(images, GAINS), by_triton.recolour(images, GAINS)),
    ):
        distance = (mine.int() - theirs.int()).abs()
        assert distance.max() <= 1
        assert (distance > 0).float().mean() < 0.005


def test_what_was_queued_is_not_overtaken_by_what_follows(by_cuda):
    """The numbers of a call go to the GPU from pinned memory, which the next call may get."""
    different = [on_gpu(drawn(seed=seed)) for seed in range(8)]
    expected = [by_cuda.warp(layers, GPU).cpu() for layers in different]
    torch.cuda._sleep(100_000_000)  # so that the copies wait while the host goes on
    queued = [by_cuda.warp(layers, GPU) for layers in different * 4]
    for made, right in zip(queued, expected * 4, strict=True):
        assert_equal(made, right)


def test_what_would_be_read_beyond_a_picture_is_an_error(by_cuda):
    layers = on_gpu(drawn())
    cut = layers._replace(pictures=[picture[:1, :1] for picture in layers.pictures])
    with pytest.raises(RuntimeError, match=r"yolov12_kernels: layer \d: a picture covers more than it has pixels"):
        by_cuda.warp(cut, GPU)


def test_wrong_arguments_are_errors(by_cuda):
    layers = on_gpu(drawn())
    with pytest.raises(RuntimeError, match="yolov12_kernels: a picture must be"):
        by_cuda.warp(layers._replace(pictures=[picture.float() for picture in layers.pictures]), GPU)
    with pytest.raises(RuntimeError, match="yolov12_kernels: slots must be"):
        by_cuda.warp(layers._replace(slots=layers.slots[:, :3]), GPU)
    with pytest.raises(RuntimeError, match="yolov12_kernels: a size of 0 pixels"):
        by_cuda.warp(layers._replace(size=0), GPU)
    with pytest.raises(RuntimeError, match="yolov12_kernels: gains must be"):
        by_cuda.recolour(noise(SIZE).to(GPU), GAINS[:2])
    with pytest.raises(RuntimeError, match="yolov12_kernels: images must be"):
        by_cuda.recolour(noise(SIZE).to(GPU)[:, :2], GAINS)
