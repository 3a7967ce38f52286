# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/letterbox.cu, compiled for the CPU by g++: its bits are OpenCV's and ultralytics'. On a GPU: tests/gpu/test_letterbox.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox

from tests.unit.docker.on_host import compiled

TYPES = [torch.float32, torch.float16, torch.bfloat16]
"""In the order of the enum Type (docker/kernels/batch_norm_act.h)."""
BORDER = 114


class OnHost:
    """The compiled code, called as the op is."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def __call__(
        self, frames: Tensor, levels: Tensor, size: tuple[int, int], corner: tuple[int, int], out: Tensor
    ) -> None:
        numbers = [*frames.shape[:3], *size, *corner, *out.shape[2:], TYPES.index(out.dtype), *out.stride()]
        self.library.letterbox_frames(
            (ctypes.c_int * len(numbers))(*numbers),
            *(ctypes.c_void_p(one.data_ptr()) for one in (frames, levels, out)),
        )


@pytest.fixture(scope="module")
def on_host(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> OnHost:
    kernels, made = repository / "docker/kernels", tmp_path_factory.mktemp("letterbox")
    return OnHost(compiled(kernels, "letterbox", made, launches=1, options=["-O2"]))


def noise(*shape: int, seed: int = 0, hard: bool = False) -> np.ndarray:
    """Random levels, or only the darkest and the brightest, between which roundings are largest."""
    made = np.random.default_rng(seed).integers(0, 2 if hard else 256, shape, np.uint8)
    return made * 255 if hard else made


def levels_of(dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=torch.uint8).to(dtype).div_(255)


def resized(on_host: OnHost, picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, in blue, green and red."""
    out = torch.full((1, 3, height, width), torch.nan)
    on_host(torch.from_numpy(picture)[None], torch.arange(256.0), (height, width), (0, 0), out)
    return out[0].flip(0).permute(1, 2, 0).to(torch.uint8).numpy()


def assert_opencvs(on_host: OnHost, picture: np.ndarray, height: int, width: int) -> None:
    ours = resized(on_host, picture, height, width)
    theirs = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    differ = ours != theirs
    assert not differ.any(), f"{picture.shape} to {ours.shape}: {differ.mean():.6f} differ"


@pytest.mark.parametrize("hard", [False, True])
def test_any_size_is_opencvs_to_the_bit(on_host, hard):
    rng = np.random.default_rng(0)
    for seed in range(100):
        height, width, new_height, new_width = (int(side) for side in rng.integers(1, 90, 4))
        assert_opencvs(on_host, noise(height, width, 3, seed=seed, hard=hard), new_height, new_width)


@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((72, 128), (36, 64)),  # halved: OpenCV takes the mean of four
        ((72, 128), (36, 65)),  # almost
        ((72, 128), (24, 43)),
        ((90, 60), (30, 20)),
        ((40, 50), (40, 50)),  # as it is
        ((40, 50), (40, 25)),
        ((40, 50), (20, 50)),
        ((33, 47), (66, 94)),
        ((33, 47), (71, 101)),
        ((1, 1), (7, 5)),
        ((1, 90), (2, 64)),
        ((90, 1), (64, 2)),
        ((300, 2), (1, 1)),
    ],
)
@pytest.mark.parametrize("hard", [False, True])
def test_special_sizes_are_opencvs_to_the_bit(on_host, size, new_size, hard):
    assert_opencvs(on_host, noise(*size, 3, hard=hard), *new_size)


def ultralytics_way(pictures: list[np.ndarray], letterbox: LetterBox, dtype: torch.dtype) -> Tensor:
    """engine/predictor.py:195-202."""
    made = np.stack([letterbox(image=picture) for picture in pictures])
    return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous().flip(1).to(dtype).div_(255)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((45, 80), {"new_shape": (64, 64), "auto": True}),
        ((45, 80), {"new_shape": (64, 64)}),
        ((80, 45), {"new_shape": (64, 96)}),
        ((128, 128), {"new_shape": (64, 64)}),
        ((20, 30), {"new_shape": (64, 64), "scaleup": False}),
        ((45, 80), {"new_shape": (64, 64), "center": False}),
        ((45, 80), {"new_shape": (64, 96), "scale_fill": True}),
        ((1, 70), {"new_shape": (32, 32)}),
    ],
    ids=str,
)
def test_a_batch_is_what_ultralytics_makes_of_it(on_host, dtype, layout, size, options):
    letterbox = LetterBox(**options)
    frames = noise(2, *size, 3)
    theirs = ultralytics_way(list(frames), letterbox, dtype)
    params = letterbox.get_params({"img": frames[0]})
    width, height = params["new_unpad"]
    out = torch.full_like(theirs, torch.nan, memory_format=layout)
    on_host(torch.from_numpy(frames), levels_of(dtype), (height, width), (params["top"], params["left"]), out)
    assert torch.equal(out, theirs)


@pytest.mark.parametrize("begin", range(4))
def test_frames_may_begin_at_any_byte(on_host, begin):
    picture = noise(31, 41, 3)
    room = np.zeros(picture.size + 4, np.uint8)
    moved = room[begin : begin + picture.size].reshape(picture.shape)
    moved[...] = picture
    assert_opencvs(on_host, moved, 20, 27)


def test_each_level_is_what_it_is_told_to_be_and_red_comes_first(on_host):
    levels = torch.randn(256)
    picture = np.stack([np.arange(256), np.full(256, 3), np.full(256, 200)], -1).astype(np.uint8)[None]
    out = torch.empty(1, 3, 2, 258)
    on_host(torch.from_numpy(picture)[None], levels, (1, 256), (1, 2), out)
    assert torch.equal(out[0, 2, 1, 2:], levels)
    assert (out[0, 1, 1, 2:] == levels[3]).all()
    assert (out[0, 0, 1, 2:] == levels[200]).all()
    out[:, :, 1, 2:] = levels[BORDER]
    assert (out == levels[BORDER]).all()


def test_nothing_beside_the_output_is_written(on_host):
    room = torch.full((3, 3, 40, 70), torch.nan)
    on_host(torch.from_numpy(noise(1, 30, 60, 3)), levels_of(torch.float32), (35, 70), (2, 0), room[1:2])
    assert room[1].isfinite().all()
    assert room[::2].isnan().all()
