# SPDX-License-Identifier: AGPL-3.0-or-later
"""Frames on their way to a network: letterboxed, turned to RGB and normalised by one kernel of ours on the GPU (docker/kernels/letterbox.h).

ultralytics resizes with OpenCV on the CPU, in one thread, and sends what comes out. Here a frame goes up as it was decoded. The numbers are the
same to the bit: the kernel resizes in OpenCV's fixed point, and what becomes of each of the 256 levels is torch's own answer. Where OpenCV computes
otherwise, which is tried out once, and where sending a frame may take longer than resizing it, ultralytics' way stays.

Not with YOLOV12_PREDICT_KERNELS=0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.engine.predictor import BasePredictor

from yolov12 import settings
from yolov12.engine.staging import Staging
from yolov12.log import say_once
from yolov12.model.fused.norm import kernels_missing
from yolov12.seams import Seam

SEAMS = (
    # Followed rule by rule.
    Seam("engine/predictor.py", 224, "ultralytics.engine.predictor.BasePredictor.pre_transform", "c39ad727ff3f"),
    Seam("data/augment.py", 1825, "ultralytics.data.augment.LetterBox.apply_image", "f209dd1e3bc2"),
    # Asked.
    Seam("data/augment.py", 1776, "ultralytics.data.augment.LetterBox.get_params", "7c692fa2abf7"),
)

MOST_TIMES = 10
"""As many pixels as the network takes, in a frame that goes up as it is. Resizing reads a few rows of a larger one, and sending it would read all."""
MOST_BYTES = 96 * 2**20
"""Of what goes up at a time, 36 frames of 1280x720: as much page-locked memory stays, and as much of the GPU's for the moment."""

Room = Callable[[tuple[int, ...], torch.dtype], Tensor | None]
"""Where the network would read a batch of this shape and type, if it has such a place (`Network.input_like`)."""


class Fit(NamedTuple):
    """Where a frame lies in what the network takes of it: height before width, in pixels."""

    size: tuple[int, int]
    """Of the frame, resized."""
    corner: tuple[int, int]
    """The row and column where it begins."""
    whole: tuple[int, int]
    """With its border."""


class Letterbox:
    """The kernel's way for the frames of one predictor."""

    def __init__(self, staging: Staging, room: Room) -> None:
        self.staging, self.room = staging, room
        self.off = why_never(staging.device)
        """Why no frame goes this way; None if they may."""
        if self.off is not None and settings.current().predict_kernels:
            _say(self.off)
        self._levels: dict[torch.dtype, Tensor] = {}

    def __call__(self, caller: Any, frames: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor | None:
        """(n, 3, height, width) from 0 to 1, contiguous, as ultralytics' `preprocess` makes it; None where that is to make it, and a line says why.

        It may be the input of the network's graph: the next call writes over it.

        Args:
            caller: the predictor.
            frames: (height, width, channels) uint8 each, BGR where there are three channels.
            dtype: of the numbers.
        """
        if self.off is not None:
            return None
        fits, reason = decide(caller, frames)
        if reason is not None:
            _say(reason)
            return None
        shape = (len(frames), 3, *fits[0].whole)
        out = self.room(shape, dtype)
        out = torch.empty(shape, dtype=dtype, device=self.staging.device) if out is None else out
        levels = self._levels_as(dtype)
        is_one_size = len(set(fits)) == 1 and len({frame.shape for frame in frames}) == 1
        for part in parts_of(frames):
            if is_one_size:
                _run(self.staging.send(frames[part]), levels, fits[0], out[part])
                continue
            for frame, fit, place in zip(
                self.staging.send_apart(frames[part]), fits[part], out[part].split(1), strict=True
            ):
                _run(frame[None], levels, fit, place)
        return out

    def _levels_as(self, dtype: torch.dtype) -> Tensor:
        """(256,): what torch on this device makes of each level (engine/predictor.py:202). It multiplies by 1/255 on a GPU, and divides elsewhere."""
        if dtype not in self._levels:
            levels = torch.arange(256, dtype=torch.uint8, device=self.staging.device)
            self._levels[dtype] = levels.to(dtype).div_(255)
        return self._levels[dtype]


def why_never(device: torch.device) -> str | None:
    """Why no frame for this device goes the kernel's way; None if they may."""
    if not settings.current().predict_kernels:
        return "YOLOV12_PREDICT_KERNELS=0"
    return kernels_missing(device) or why_not_opencvs()


def decide(caller: Any, frames: Sequence[np.ndarray]) -> tuple[list[Fit], str | None]:
    """Where each of a batch's frames lies, and why they go ultralytics' way; None if they go the kernel's."""
    if type(caller).pre_transform is not BasePredictor.pre_transform or "pre_transform" in vars(caller):
        return [], "the predictor has a pre_transform of its own"
    if channels := {frame.shape[2] if frame.ndim == 3 else 1 for frame in frames} - {3}:
        return [], f"pictures have {min(channels)} channels"
    if max(frame.nbytes for frame in frames) > MOST_BYTES:
        return [], f"a picture is larger than {MOST_BYTES // 2**20} MiB"
    fits = fits_of(caller, frames)
    if any(frame.size > MOST_TIMES * 3 * fit.whole[0] * fit.whole[1] for frame, fit in zip(frames, fits, strict=True)):
        return [], f"a picture has more than {MOST_TIMES} times the pixels that the network takes of it"
    if len({fit.whole for fit in fits}) > 1:
        return [], "pictures of a batch differ in size once they are letterboxed"
    return fits, None


def parts_of(frames: Sequence[np.ndarray]) -> list[slice]:
    """Which frames go up together: as many, in their order, as are no more than `MOST_BYTES`."""
    parts, begin, bytes_so_far = [], 0, 0
    for i, frame in enumerate(frames):
        if i > begin and bytes_so_far + frame.nbytes > MOST_BYTES:
            parts.append(slice(begin, i))
            begin, bytes_so_far = i, 0
        bytes_so_far += frame.nbytes
    return [*parts, slice(begin, len(frames))]


def fits_of(caller: Any, frames: Sequence[np.ndarray]) -> list[Fit]:
    """Where `pre_transform` puts each frame (engine/predictor.py:232)."""
    model = caller.model
    same_shapes = len({frame.shape for frame in frames}) == 1
    takes_any_size = model.format == "pt" or (getattr(model, "dynamic", False) and model.format != "imx")
    auto = bool(same_shapes and caller.args.rect and not caller.scale_fill and takes_any_size)
    imgsz = caller.imgsz if isinstance(caller.imgsz, int) else tuple(caller.imgsz)
    return [_fit(frame.shape[:2], imgsz, auto, bool(caller.scale_fill), int(model.stride)) for frame in frames]


@lru_cache(maxsize=256)
def _fit(shape: tuple[int, int], imgsz: int | tuple[int, int], auto: bool, scale_fill: bool, stride: int) -> Fit:
    letterbox = LetterBox(imgsz, auto=auto, scale_fill=scale_fill, stride=stride)
    asked = letterbox.get_params({"img": np.empty(shape, np.uint8)})
    width, height = asked["new_unpad"]
    whole = asked["top"] + height + asked["bottom"], asked["left"] + width + asked["right"]
    return Fit((height, width), (asked["top"], asked["left"]), whole)


def _run(frames: Tensor, levels: Tensor, fit: Fit, out: Tensor) -> None:
    """Letterbox `frames`, (n, height, width, 3) uint8, into `out`, (n, 3, *fit.whole), each level as `levels` has it."""
    torch.ops.yolov12_kernels.letterbox(frames, levels, *fit.size, *fit.corner, out)


def _say(reason: str) -> None:
    say_once(f"letterbox {reason}", f"predict: OpenCV resizes on the CPU: {reason}")


# ---- OpenCV's arithmetic ----

WEIGHT_BITS = 11
TRIED = (((45, 61), (29, 40)), ((30, 40), (15, 20)), ((20, 30), (41, 57)))
"""Heights and widths: smaller, halved, which OpenCV does in another way, and larger."""


@cache
def why_not_opencvs() -> str | None:
    """Why the kernel's pixels would not be OpenCV's in this process; None if they are.

    They are OpenCV's own code for x86-64, whichever instructions the CPU has. Intel's library, if somebody allowed it to be inexact
    (`cv2.ipp.setUseIPP_NotExact`), and Arm's, which OpenCV calls on such machines, compute otherwise.
    """
    noise = np.random.default_rng(0)
    for (height, width), size in TRIED:
        picture = noise.integers(0, 256, (height, width, 3), np.uint8)
        if not np.array_equal(resized(picture, size), cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)):
            return f"OpenCV {cv2.__version__} does not compute here as it does by itself on x86-64"
    return None


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)` as the kernel computes it (docker/kernels/letterbox.h), slowly.

    Args:
        picture: (height, width, channels) uint8.
        size: height and width of the result.
    """
    levels = picture.astype(np.int32)
    top, bottom, upper, lower = _taps(size[0], picture.shape[0])
    left, right, before, behind = (taps[:, None] for taps in _taps(size[1], picture.shape[1]))
    rows = levels[:, left[:, 0]] * before + levels[:, right[:, 0]] * behind
    rows >>= 4
    parts = (rows[top] * upper[:, None, None] >> 16) + (rows[bottom] * lower[:, None, None] >> 16)
    return ((parts + 2) >> 2).astype(np.uint8)


def _taps(count: int, of: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """In one direction the two neighbours of each of `count` new pixels among `of` old ones, and their weights."""
    scale = 1 / (count / of)  # by two divisions, as OpenCV
    at = ((np.arange(count) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(at)
    beyond, one = at - first, np.float32(2**WEIGHT_BITS)
    weights = [np.rint(share * one).astype(np.int32) for share in (1 - beyond, beyond)]
    places = [np.clip(first.astype(np.int32) + i, 0, of - 1) for i in (0, 1)]
    return (*places, *weights)
