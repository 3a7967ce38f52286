# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/letterbox.h: frames become ultralytics' numbers to the bit, and boxes are the same with and without it. Needs one NVIDIA GPU.

python -m pytest tests/gpu/test_letterbox.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from ultralytics.models.yolo.detect import DetectionPredictor

from benchmarks import lively
from tests.gpu.compiled import skip_without_code
from tests.gpu.test_predict import IMGSZ, picture, predicted, waits
from tests.unit.engine.test_letterbox import Caller, noise
from yolov12 import YOLO
from yolov12.engine import letterbox
from yolov12.engine.letterbox import Fit, Letterbox
from yolov12.engine.staging import Staging

GPU = torch.device("cuda", 0)
SIZES = [(720, 1280), (1080, 1920), (480, 640), (640, 640), (375, 500), (333, 517), (100, 77), (1280, 720), (17, 900)]
"""Halved, smaller, as it is, larger, thin, and of sides that no block fits."""


@pytest.fixture(autouse=True)
def asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_code()
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "1")
    monkeypatch.setenv("YOLOV12_PREDICT_KERNELS", "1")
    assert letterbox.why_never(GPU) is None


def a_way() -> Letterbox:
    return Letterbox(Staging(GPU), lambda shape, dtype: None)


def a_caller(**options: Any) -> Caller:
    made = Caller(**options)
    made.device = GPU
    return made


def assert_ultralytics(way: Letterbox, caller: Caller, frames: list[np.ndarray]) -> None:
    ours, theirs = way(caller, frames, torch.float16 if caller.model.fp16 else torch.float32), caller.preprocess(frames)
    assert ours is not None
    assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())
    differ = (ours != theirs).sum().item()
    assert not differ, f"{differ} of {ours.numel()} differ, by {(ours - theirs).abs().max().item():.2e} at most"


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_frames_become_ultralytics_numbers_to_the_bit(size: tuple[int, int], rect: bool, fp16: bool) -> None:
    way, caller = a_way(), a_caller(imgsz=(640, 640), rect=rect, fp16=fp16)
    assert_ultralytics(way, caller, [noise(*size, 3)])
    assert_ultralytics(way, caller, [noise(*size, 3, seed=i) for i in range(3)])


def test_any_size_is_opencvs_to_the_bit() -> None:
    """Many sizes, larger and smaller, with levels at random and with the darkest and brightest alone."""
    rng, way, caller = np.random.default_rng(0), a_way(), a_caller(imgsz=(320, 320))
    for seed in range(200):
        frame = noise(*(int(side) for side in rng.integers(60, 1000, 2)), 3, seed=seed)
        frame = np.where(frame > 127, np.uint8(255), np.uint8(0)) if seed % 2 else frame
        if letterbox.decide(caller, [frame])[1] is None:
            assert_ultralytics(way, caller, [frame])


def test_frames_of_several_sizes_become_ultralytics_numbers_to_the_bit() -> None:
    assert_ultralytics(a_way(), a_caller(imgsz=(640, 640)), [noise(*size, 3, seed=i) for i, size in enumerate(SIZES)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_planes_and_channels_last_are_the_same_numbers(dtype: torch.dtype) -> None:
    frames = torch.from_numpy(noise(2, 333, 517, 3)).to(GPU)
    levels = torch.arange(256, device=GPU, dtype=torch.uint8).to(dtype).div_(255)
    fit, shape = Fit((206, 320), (25, 0), (256, 320)), (2, 3, 256, 320)
    planes = torch.full(shape, torch.nan, device=GPU, dtype=dtype)
    last = torch.full(shape, torch.nan, device=GPU, dtype=dtype).contiguous(memory_format=torch.channels_last)
    for out in (planes, last):
        letterbox._run(frames, levels, fit, out)
    assert torch.equal(planes, last)
    expected = torch.from_numpy(letterbox.resized(frames[0].cpu().numpy(), fit.size)).permute(2, 0, 1).flip(0)
    assert torch.equal(planes[0, :, 25:231].cpu(), levels.cpu()[expected.int()])
    assert (planes[:, :, :25] == levels[114]).all()
    assert (planes[:, :, 231:] == levels[114]).all()


def test_what_is_sent_next_does_not_overtake_what_waits() -> None:
    """Frames leave from page-locked memory that the next call writes over."""
    way, caller = a_way(), a_caller(imgsz=(640, 640))
    frames = [noise(720, 1280, 3, seed=i) for i in range(8)]
    expected = [caller.preprocess([frame]) for frame in frames]
    torch.cuda._sleep(100_000_000)  # so that copies wait while the host goes on
    queued = [way(caller, [frame], torch.float32) for frame in frames]
    assert all(torch.equal(made, right) for made, right in zip(queued, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.zeros(1, 4, 6, 4, dtype=torch.uint8)}, "frames must be"),
        ({"frames": torch.zeros(1, 4, 6, 3)}, "frames must be"),
        ({"levels": torch.zeros(255)}, "levels must be"),
        ({"levels": torch.zeros(256, dtype=torch.float16)}, "levels must be"),
        ({"out": torch.zeros(2, 3, 8, 9)}, "out must be"),
        ({"out": torch.zeros(1, 3, 8, 18)[..., ::2]}, "out must be"),
        ({"fit": Fit((4, 6), (5, 0), (8, 9))}, "do not lie within 8 x 9"),
        ({"fit": Fit((4, 6), (0, -1), (8, 9))}, "do not lie within 8 x 9"),
        ({"fit": Fit((0, 6), (0, 0), (8, 9))}, "do not lie within 8 x 9"),
    ],
)
def test_wrong_arguments_are_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "frames": torch.zeros(1, 4, 6, 3, dtype=torch.uint8),
        "levels": torch.zeros(256),
        "fit": Fit((4, 6), (1, 2), (8, 9)),
        "out": torch.zeros(1, 3, 8, 9),
    }
    on_gpu = {name: one.to(GPU) if isinstance(one, Tensor) else one for name, one in arguments.items()}
    letterbox._run(**on_gpu)
    on_gpu |= {name: as_it_lies(one) if isinstance(one, Tensor) else one for name, one in change.items()}
    with pytest.raises(RuntimeError, match=f"yolov12_kernels: .*{message}"):
        letterbox._run(**on_gpu)


def as_it_lies(t: Tensor) -> Tensor:
    """On the GPU, with its strides."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=GPU).copy_(t)


# ---- whole predictions ----


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.pt"
    lively.make("yolo12n.yaml", IMGSZ, share=0.03).save(path)
    return path


FRAMES = [picture(*size, seed=i) for i, size in enumerate([(360, 640), (480, 640), (360, 640), (640, 480), (200, 300)])]


def answers(model: YOLO, source: Any, **options: Any) -> list[Tensor]:
    """Boxes of each frame, four times: as it is, captured, and replayed."""
    return [result.boxes.data for _ in range(4) for result in predicted(model, source, **options)]


@pytest.mark.parametrize("quantize", [None, 16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("source", [FRAMES[0], FRAMES, [FRAMES[0], FRAMES[2]]], ids=["one", "all sizes", "two alike"])
def test_boxes_are_the_same_with_and_without_it(
    model: YOLO, monkeypatch: pytest.MonkeyPatch, source: Any, quantize: int | None
) -> None:
    """The network reads the same bits; all else of `YOLOV12_PREDICT_KERNELS` is there on both sides."""
    ours = answers(model, source, quantize=quantize)
    assert model.predictor.fast.letterbox.off is None
    model.predictor = None
    monkeypatch.setattr(letterbox, "why_never", lambda device: "a test wants OpenCV")
    theirs = answers(model, source, quantize=quantize)
    assert any(len(boxes) for boxes in ours)
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.shape == yours.shape
        worst = (mine - yours).abs().max().item() if len(mine) else 0.0
        assert worst < 0.01, f"{worst} px or score apart"  # cuDNN may choose anew


def test_boxes_are_ultralytics(model: YOLO) -> None:
    theirs = predicted(model, FRAMES, DetectionPredictor)
    for _ in range(3):
        for one, other in zip(predicted(model, FRAMES), theirs, strict=True):
            mine, yours = one.boxes.data, other.boxes.data
            assert mine.shape == yours.shape
            assert not len(mine) or (mine - yours).abs().max().item() < 0.01


def test_a_frame_waits_for_the_gpu_once(model: YOLO) -> None:
    for _ in range(3):
        predicted(model, FRAMES[0])
    found = waits(lambda: predicted(model, FRAMES[0]))
    assert len(found) == 1, found
