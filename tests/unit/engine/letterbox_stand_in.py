# SPDX-License-Identifier: AGPL-3.0-or-later
"""numpy and torch in the place of docker/kernels/letterbox.h: makes the CPU a GPU with that kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolov12.engine import letterbox
from yolov12.engine.letterbox import Fit

BORDER = 114


def install(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], Fit]]:
    """Ask for it. The shapes of the frames and the fits of the calls that come from now on."""
    calls: list[tuple[tuple[int, ...], Fit]] = []

    def run(frames: Tensor, levels: Tensor, fit: Fit, out: Tensor) -> None:
        assert frames.dtype == torch.uint8
        assert frames.is_contiguous()
        assert levels.shape == (256,)
        assert levels.dtype == out.dtype
        assert out.shape == (len(frames), 3, *fit.whole)
        (height, width), (top, left) = fit.size, fit.corner
        out[:] = levels[BORDER]
        for frame, place in zip(frames, out, strict=True):
            rgb = torch.from_numpy(letterbox.resized(frame.numpy(), fit.size)).flip(-1).permute(2, 0, 1)
            place[:, top : top + height, left : left + width] = levels[rgb.int()]
        calls.append((tuple(frames.shape), fit))

    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", "1")
    monkeypatch.setattr(letterbox, "kernels_missing", lambda device: None)
    monkeypatch.setattr(letterbox, "_run", run)
    return calls
