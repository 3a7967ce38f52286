# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/augment.cu, compiled for the CPU by g++: its bits are those of torch's operations. On a GPU: tests/gpu/test_augment.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.data.augment.test_parity import EVERYTHING, IMGSZ, many
from tests.unit.data.augment.test_warp import SIZE, layers_of
from tests.unit.docker.on_host import compiled
from yolov12.data.augment import Hyperparameters, backends, colour, draw, render
from yolov12.data.augment.layout import Layout
from yolov12.data.augment.warp import Layers, warp

CPU = torch.device("cpu")
DRAWN = {"mosaic": 0.5, "degrees": 45.0, "scale": 0.6, "shear": 20.0, "translate": 0.4}


class OnHost:
    """The compiled code, called as the two functions of a backend are."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.library.augment_warp.restype = ctypes.c_char_p

    def warp(self, layers: Layers, device: torch.device) -> Tensor:
        pictures = [picture.contiguous() for picture in layers.pictures]
        numbers = np.array([(picture.data_ptr(), *picture.shape[:2]) for picture in pictures], dtype=np.int64)
        arrays = (layers.slots, layers.layout.pad, layers.layout.inside, layers.layout.seam, layers.backward)
        arrays = tuple(np.ascontiguousarray(array) for array in arrays)
        count, size = len(layers.slots), layers.size
        rendered = torch.empty((count, 3, size, size), dtype=torch.uint8, device=device)
        columns = [np.ascontiguousarray(column) for column in numbers.T]
        fault = self.library.augment_warp(
            *(pointer(column) for column in columns),
            ctypes.c_int64(len(pictures)),
            *(pointer(array) for array in arrays),
            ctypes.c_int64(count),
            size,
            ctypes.c_bool(layers.is_projective),
            ctypes.c_void_p(rendered.data_ptr()),
        )
        if fault:
            raise ValueError(fault.decode())
        return rendered

    def recolour(self, images: Tensor, gains: np.ndarray) -> Tensor:
        images, coloured = images.contiguous(), torch.empty_like(images)
        self.levels = np.empty((len(images), 3, 256), dtype=np.uint8)
        self.library.augment_recolour(
            ctypes.c_void_p(images.data_ptr()),
            pointer(np.ascontiguousarray(gains, dtype=np.float64)),
            len(images),
            images[0, 0].numel(),
            pointer(self.levels),
            ctypes.c_void_p(coloured.data_ptr()),
        )
        return coloured


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


@pytest.fixture(scope="module")
def on_host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> OnHost:
    kernels, made = repository / "docker/kernels", tmp_path_factory.mktemp("augment")
    return OnHost(compiled(kernels, "augment", made, launches=3, options=["-O2"]))


@pytest.mark.parametrize("perspective", [0.0, 0.002])
@pytest.mark.parametrize("seed", range(3))
def test_layers_are_torchs_to_the_bit(on_host, perspective, seed):
    layers, _ = layers_of(Hyperparameters(imgsz=SIZE, perspective=perspective, **DRAWN), seed, count=8)
    assert torch.equal(on_host.warp(layers, CPU), warp(layers, CPU))


@pytest.mark.parametrize("size", [1, 31, 61, 97])  # 97: more blocks than one each way
def test_a_size_that_no_block_fits_is_torchs_too(on_host, size):
    layers, _ = layers_of(Hyperparameters(imgsz=SIZE, **DRAWN), seed=4)
    layers = layers._replace(size=size)
    assert torch.equal(on_host.warp(layers, CPU), warp(layers, CPU))


def test_points_far_away_and_without_depth_are_empty(on_host):
    layers, _ = layers_of(Hyperparameters(imgsz=SIZE, mosaic=0.5), seed=1, count=3)
    backward = np.array(
        [[[1e30, 0, -1e30], [0, -1e30, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 0]], np.zeros((3, 3))]
    )
    layers = layers._replace(backward=backward.astype(np.float32), is_projective=True)
    assert torch.equal(on_host.warp(layers, CPU), warp(layers, CPU))


@pytest.mark.parametrize("begin", range(4))
def test_pictures_may_begin_at_any_byte(on_host, begin):
    layers, _ = layers_of(Hyperparameters(imgsz=SIZE, **DRAWN), seed=2)
    expected = warp(layers, CPU)
    moved = []
    for picture in layers.pictures:
        room = torch.zeros(picture.numel() + 4, dtype=torch.uint8)[begin : begin + picture.numel()]
        moved.append(room.view(picture.shape).copy_(picture))
    assert torch.equal(on_host.warp(layers._replace(pictures=moved), CPU), expected)


def changed(layers: Layers, name: str, index: tuple[int, ...], value: int) -> Layers:
    """With one number of the layout, or of the slots, changed."""
    array = layers.slots.copy() if name == "slots" else getattr(layers.layout, name).copy()
    array[index] = value
    if name == "slots":
        return layers._replace(slots=array)
    return layers._replace(layout=Layout(**{**layers.layout._asdict(), name: array}))


@pytest.mark.parametrize(
    ("name", "index", "value", "fault"),
    [
        ("slots", (0, 1), 9, "a slot names no picture"),
        ("slots", (0, 1), -2, "a slot names no picture"),
        ("inside", (0, 0, 0), -1, "a picture covers what is outside of any canvas"),
        ("inside", (0, 3, 2), 2**30, "a picture covers what is outside of any canvas"),
        ("pad", (0, 0, 0), SIZE, "a picture covers more than it has pixels"),
        ("pad", (0, 3, 1), -SIZE, "a picture covers more than it has pixels"),
        ("seam", (0, 0), 0, "a picture lies across the seam's column"),
        ("seam", (0, 1), 2 * SIZE, "a picture lies across the seam's row"),
        ("seam", (0, 1), -(2**40), "the seam is outside of any canvas"),
    ],
)
def test_layers_that_would_be_read_beyond_a_picture_are_refused(on_host, name, index, value, fault):
    layers, _ = layers_of(Hyperparameters(imgsz=SIZE, mosaic=1.0), seed=0, count=1)
    on_host.warp(layers, CPU)
    with pytest.raises(ValueError, match=fault):
        on_host.warp(changed(layers, name, index, value), CPU)


@pytest.mark.parametrize("side", [64, 61, 1, 68])  # 61: not 16 bytes at a time; 68: a second block, of 33 threads
def test_colours_are_torchs_to_the_bit(on_host, side):
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, :, :16] = images[0, :1, :16]  # greys
    gains = np.array([[0.1, 0.5, -0.4], [0, 0, 0], [-0.9, -1, 1]])
    assert torch.equal(on_host.recolour(images, gains), colour.recolour(images, gains))


def test_images_may_begin_at_any_byte(on_host):
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    moved = torch.empty(images.numel() + 5, dtype=torch.uint8)[5:].view(images.shape).copy_(images)
    gains = np.array([[0.1, 0.5, -0.4], [0.2, -0.5, 0.4]])
    assert torch.equal(on_host.recolour(moved, gains), colour.recolour(images, gains))


@pytest.mark.parametrize("blue", range(0, 256, 51))
def test_every_green_and_red_is_torchs_to_the_bit(on_host, blue):
    levels = torch.arange(256, dtype=torch.uint8)
    image = torch.stack(
        (torch.full((256, 256), blue, dtype=torch.uint8), *torch.meshgrid(levels, levels, indexing="ij"))
    )
    gains = np.array([[0.01, 0.3, 0.2]])
    assert torch.equal(on_host.recolour(image[None], gains), colour.recolour(image[None], gains))


def test_what_becomes_of_each_level_is_numpys_to_the_bit(on_host):
    gains = np.random.default_rng(0).uniform(-1.5, 1.5, (200, 3))  # of hue: some turns farther than once around
    gains[:4] = [[0, 0, 0], [1, 1, 1], [-1, -1, -1], [1 / 180, 0.5, -0.5]]
    on_host.recolour(torch.zeros((200, 3, 1, 1), dtype=torch.uint8), gains)
    assert np.array_equal(on_host.levels, colour.lookup_tables(gains))


def test_the_tables_are_opencvs(on_host):
    made = np.empty((2, 256), dtype=np.int32)
    on_host.library.augment_divisions(pointer(made[0]), pointer(made[1]))
    expected = colour.constants(CPU)
    assert np.array_equal(made, torch.stack((expected.for_saturation, expected.for_hue)).numpy())


def test_a_whole_batch_is_torchs_to_the_bit(on_host, monkeypatch):
    hyp = Hyperparameters(imgsz=IMGSZ, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, fliplr=0.5, perspective=0.0005, **EVERYTHING)
    rng = np.random.default_rng(0)
    sources = many(rng, 8)
    recipe = draw(rng, np.arange(6), hyp, lambda rng, count: rng.integers(8, size=count))
    plain = render(recipe, sources, "cpu")
    monkeypatch.setattr(backends, "choose", lambda device: backends.Backend(on_host.warp, on_host.recolour))
    assert torch.equal(render(recipe, sources, "cpu").img, plain.img)
