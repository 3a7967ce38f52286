# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which frames go the kernel's way, and that they become ultralytics' numbers to the bit, by a stand-in. On a GPU: tests/gpu/test_letterbox.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ultralytics.engine.predictor import BasePredictor

from tests.unit.engine import letterbox_stand_in
from yolov12.engine import letterbox
from yolov12.engine.letterbox import Fit, Letterbox
from yolov12.engine.staging import Staging

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# ---- OpenCV's arithmetic ----

SIDES = st.integers(1, 120)


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, new_height=SIDES, new_width=SIDES, seed=st.integers(0, 1000), hard=st.booleans())
def test_any_size_is_resized_as_opencv_does(height, width, new_height, new_width, seed, hard):
    picture = noise(height, width, 3, seed=seed)
    picture = np.where(picture > 127, np.uint8(255), np.uint8(0)) if hard else picture
    theirs = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(letterbox.resized(picture, (new_height, new_width)), theirs)


@pytest.mark.parametrize("times", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(36, 64), (45, 61), (1, 1)])
def test_whole_ratios_are_resized_as_opencv_does(size, times):
    """It halves in another way, and copies what keeps its size."""
    picture = noise(times * size[0], times * size[1], 3)
    theirs = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(letterbox.resized(picture, size), theirs)


@pytest.fixture
def inexact_opencv() -> Iterator[None]:
    """Intel's library may compute what OpenCV computes otherwise."""
    before = cv2.ipp.useIPP_NotExact()
    letterbox.why_not_opencvs.cache_clear()
    cv2.ipp.setUseIPP_NotExact(True)
    yield
    cv2.ipp.setUseIPP_NotExact(before)
    letterbox.why_not_opencvs.cache_clear()


def test_an_opencv_that_computes_otherwise_is_found_out(inexact_opencv):
    if np.array_equal(cv2.resize(noise(45, 61, 3), (40, 29)), letterbox.resized(noise(45, 61, 3), (29, 40))):
        pytest.skip("this machine's OpenCV is exact all the same")
    assert (
        letterbox.why_not_opencvs() == f"OpenCV {cv2.__version__} does not compute here as it does by itself on x86-64"
    )


def test_this_opencv_computes_as_the_kernel():
    assert letterbox.why_not_opencvs() is None


# ---- what becomes of frames ----


class Caller(BasePredictor):
    """As much of a predictor as `preprocess` needs."""

    def __init__(self, imgsz: Any = (96, 128), rect: bool = True, fp16: bool = False, **model: Any) -> None:
        self.imgsz, self.device = imgsz, CPU
        self.args = SimpleNamespace(rect=rect)
        self.model = SimpleNamespace(**{"format": "pt", "stride": 32, "fp16": fp16} | model)


def no_room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    return None


def both(caller: Caller, frames: list[np.ndarray], room: letterbox.Room = no_room) -> tuple[Tensor | None, Tensor]:
    """(ours, ultralytics')."""
    dtype = torch.float16 if caller.model.fp16 else torch.float32
    return Letterbox(Staging(CPU), room)(caller, frames, dtype), caller.preprocess(frames)


CALLERS = {
    "rectangle": {},
    "square": {"rect": False},
    "a side": {"imgsz": 64, "rect": False},
    "half precision": {"fp16": True},
    "another stride": {"stride": 16},
    "an engine of one size": {"format": "engine"},
    "an engine of any size": {"format": "engine", "dynamic": True},
}


@pytest.mark.parametrize("options", CALLERS.values(), ids=CALLERS)
@pytest.mark.parametrize(
    "sizes", [[(72, 128)], [(45, 80)] * 3, [(200, 150)], [(96, 128)], [(45, 80), (80, 45), (1, 50)]], ids=str
)
def test_frames_become_ultralytics_numbers(monkeypatch, options, sizes):
    calls = letterbox_stand_in.install(monkeypatch)
    frames = [noise(*size, 3, seed=i) for i, size in enumerate(sizes)]
    ours, theirs = both(Caller(**options), frames)
    assert torch.equal(ours, theirs)
    assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())
    assert len(calls) == len(set(sizes)), "frames of one size go together"


def test_frames_that_are_stretched_are_ultralytics_too(monkeypatch):
    letterbox_stand_in.install(monkeypatch)
    caller = Caller()
    caller.scale_fill = True
    ours, theirs = both(caller, [noise(50, 50, 3)])
    assert torch.equal(ours, theirs)


def test_frames_that_are_no_stack_in_memory(monkeypatch):
    """Cut out of a larger one, and mirrored."""
    letterbox_stand_in.install(monkeypatch)
    whole = noise(90, 120, 3)
    ours, theirs = both(Caller(), [whole[::2, 40:], whole[::-2, :80]])
    assert torch.equal(ours, theirs)


def test_the_numbers_go_where_the_network_reads_them(monkeypatch):
    letterbox_stand_in.install(monkeypatch)
    asked, held = [], torch.empty(1, 3, 96, 128)

    def room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        asked.append((shape, dtype))
        return held

    ours, theirs = both(Caller(), [noise(72, 128, 3)], room)
    assert ours is held
    assert torch.equal(held, theirs)
    assert asked == [((1, 3, 96, 128), torch.float32)]


# ---- who goes which way ----


class Own(Caller):
    """A predictor of the user's own."""

    def pre_transform(self, im: list[np.ndarray]) -> list[np.ndarray]:
        return super().pre_transform([255 - one for one in im])


def with_own_function() -> Caller:
    caller = Caller()
    caller.pre_transform = lambda im: im
    return caller


@pytest.mark.parametrize(
    ("caller", "frames", "reason"),
    [
        (Caller(), [noise(40, 50, 1)], "pictures have 1 channels"),
        (Caller(), [noise(40, 50)], "pictures have 1 channels"),
        (Caller(), [noise(40, 50, 3), noise(40, 50, 4)], "pictures have 4 channels"),
        (Own(), [noise(40, 50, 3)], "the predictor has a pre_transform of its own"),
        (with_own_function(), [noise(40, 50, 3)], "the predictor has a pre_transform of its own"),
        (Caller(), [noise(330, 440, 3)], "a picture has more than 10 times the pixels that the network takes of it"),
    ],
)
def test_what_the_kernel_does_not_take_is_told_and_left_to_ultralytics(monkeypatch, capsys, caller, frames, reason):
    calls = letterbox_stand_in.install(monkeypatch)
    monkeypatch.setattr("yolov12.log._said", set())
    assert letterbox.decide(caller, frames)[1] == reason
    way = Letterbox(Staging(CPU), no_room)
    assert [way(caller, frames, torch.float32) for _ in range(2)] == [None, None]
    assert capsys.readouterr().err == f"predict: OpenCV resizes on the CPU: {reason}\n"
    assert not calls


@pytest.mark.parametrize(
    ("sizes", "sent"),
    [([(45, 80)] * 5, [2, 2, 1]), ([(45, 80), (80, 45), (1, 50)], [2, 1])],
    ids=["one size", "several"],
)
def test_a_batch_that_takes_much_memory_goes_up_in_parts(monkeypatch, sizes, sent):
    letterbox_stand_in.install(monkeypatch)
    frames = [noise(*size, 3, seed=i) for i, size in enumerate(sizes)]
    monkeypatch.setattr(letterbox, "MOST_BYTES", 2 * frames[0].nbytes)
    at_a_time, staged = [], Staging._sent
    monkeypatch.setattr(
        Staging, "_sent", lambda self, some, shapes: at_a_time.append(len(some)) or staged(self, some, shapes)
    )
    ours, theirs = both(Caller(), frames)
    assert torch.equal(ours, theirs)
    assert at_a_time == sent


def test_a_picture_that_takes_much_memory_is_left_to_ultralytics(monkeypatch):
    monkeypatch.setattr(letterbox, "MOST_BYTES", 2**20)
    assert letterbox.decide(Caller(), [noise(300, 400, 3)] * 3)[1] is None
    assert letterbox.decide(Caller(), [noise(600, 800, 3)])[1] == "a picture is larger than 1 MiB"


def test_a_frame_just_small_enough_goes_up_as_it_is():
    fit = Fit((96, 128), (0, 0), (96, 128))
    assert letterbox.decide(Caller(), [noise(288, 384, 3)]) == ([fit], None)


@pytest.mark.parametrize(
    ("wanted", "said"), [("0", ""), ("1", "predict: OpenCV resizes on the CPU: they are for GPUs, and this is cpu\n")]
)
def test_it_is_off_unless_it_is_asked_for_and_a_gpu_has_it(monkeypatch, capsys, wanted, said):
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", wanted)
    monkeypatch.setattr("yolov12.log._said", set())
    way = Letterbox(Staging(CPU), no_room)
    assert way.off == ("they are for GPUs, and this is cpu" if wanted == "1" else "YOLOV12_PREDICT_KERNELS=0")
    assert way(Caller(), [noise(72, 128, 3)], torch.float32) is None
    assert capsys.readouterr().err == said


def test_the_ops_schema_has_what_is_handed_to_it(repository: Path):
    """Its arguments are told in docker/kernels, by position."""
    text = (repository / "docker/kernels/letterbox_ops.cpp").read_text()
    assert (
        "letterbox(Tensor frames, Tensor levels, int height, int width, int top, int left, Tensor(a!) out) -> ()"
        in text
    )
    handed: list[Any] = []
    library = torch.library.Library("yolov12_kernels", "FRAGMENT")
    library.define(
        "letterbox(Tensor frames, Tensor levels, int height, int width, int top, int left, Tensor(a!) out) -> ()"
    )
    library.impl("letterbox", lambda *arguments: handed.extend(arguments), "CPU")
    try:
        frames, levels, out = torch.zeros(1, 4, 6, 3, dtype=torch.uint8), torch.zeros(256), torch.zeros(1, 3, 8, 9)
        letterbox._run(frames, levels, Fit((4, 6), (1, 2), (8, 9)), out)
        assert handed[2:6] == [4, 6, 1, 2]
        assert [handed[i].shape for i in (0, 1, 6)] == [frames.shape, levels.shape, out.shape]
    finally:
        library._destroy()
