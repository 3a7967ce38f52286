# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/suppress.cu, compiled for the CPU by g++: the rows of torch's operations (yolov12/engine/scoring/fixed.py), to the bit. On a GPU:
tests/gpu/test_suppress.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ultralytics.utils import ops

from tests.unit.docker.on_host import compiled
from yolov12.engine.scoring import fixed
from yolov12.engine.scoring.scale import Placing, placing_of

TYPES = [torch.float32, torch.float16, torch.bfloat16]
"""In the order of the enum Type (docker/kernels/batch_norm_act.h)."""
KERNELS = 2
NOWHERE = Placing((0, 0), (1, 1), (0, 0))


@pytest.fixture(scope="module")
def library(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(repository / "docker/kernels", "suppress", tmp_path_factory.mktemp("suppress"), launches=KERNELS)


def on_gpu(iou: float, device: torch.device) -> float:
    """`comparable` for a GPU, whose kernels round the threshold; the one for the CPU compares with the double."""
    return float(np.float32(iou))


@pytest.fixture(autouse=True)
def _thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "comparable", on_gpu)


def ours(
    library: ctypes.CDLL,
    prediction: Tensor,
    confidence: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    agnostic: bool = False,
    wanted: Tensor | None = None,
    placing: Placing | None = None,
) -> Tensor:
    images, rows, anchors = prediction.shape
    most = min(max_det, anchors, fixed.ROOM)
    y = torch.full((images, most + 1, 6), torch.nan)
    numbers = [images, anchors, rows - 4, TYPES.index(prediction.dtype), agnostic, most]
    numbers += [-1 if wanted is None else len(wanted), placing is not None]
    padding, gain, limit = placing or NOWHERE
    where = [*padding, *(float(1 / np.float32(one)) for one in gain), *limit]
    kept = None if wanted is None else wanted.float().contiguous()
    library.suppress_predictions(
        (ctypes.c_int * len(numbers))(*numbers),
        ctypes.c_float(confidence),
        ctypes.c_float(iou),
        ctypes.c_void_p(prediction.data_ptr()),
        None if kept is None else ctypes.c_void_p(kept.data_ptr()),
        (ctypes.c_float * len(where))(*where),
        ctypes.c_void_p(y.data_ptr()),
    )
    return y


def predictions(
    seed: int,
    images: int,
    classes: int,
    anchors: int,
    dtype: torch.dtype,
    spread: float = 60.0,
    share: float = 0.3,
) -> Tensor:
    """Boxes close to each other, of coarse numbers, so that many scores and overlaps are equal; `share` of the scores are not zero."""
    generator = torch.Generator().manual_seed(seed)
    centre = spread * torch.rand(images, 2, anchors, generator=generator)
    size = 8 * torch.randint(1, 8, (images, 2, anchors), generator=generator)
    scores = torch.randint(0, 21, (images, classes, anchors), generator=generator) / 20
    scores *= torch.rand(images, classes, anchors, generator=generator) < share
    return torch.cat((centre.round(), size.float(), scores), 1).to(dtype)


def long_chain(boxes: int) -> Tensor:
    """Each box falls on the one before it, so that every second stands: more rounds than torch's operations go."""
    prediction = torch.zeros(1, 5, boxes)
    prediction[0, 0] = 4.0 * torch.arange(boxes)
    prediction[0, 1:4] = 16
    prediction[0, 4] = torch.linspace(0.9, 0.5, boxes)
    return prediction


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 2),
    classes=st.sampled_from([1, 2, 3, 5, 80]),
    anchors=st.integers(1, 200),
    dtype=st.sampled_from(TYPES),
    confidence=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.9]),
    iou=st.sampled_from([0.0, 0.3, 0.45, 0.7, 1.0]),
    max_det=st.sampled_from([0, 1, 7, 300]),
    agnostic=st.booleans(),
)
def test_rows_are_those_of_torchs_operations(
    library, seed, images, classes, anchors, dtype, confidence, iou, max_det, agnostic
):
    prediction = predictions(seed, images, classes, anchors, dtype)
    expected = fixed.fixed_nms(prediction, confidence, iou, max_det, agnostic=agnostic)
    found = ours(library, prediction, confidence, iou, max_det, agnostic)
    for mine, theirs in zip(found, expected, strict=True):
        if theirs[-1, 1] == 1:
            assert torch.equal(mine, theirs)
        else:  # torch's went no further; ours has room for so few
            assert mine[-1, 1] == 1


@pytest.mark.parametrize("anchors", [fixed.ROOM - 1, fixed.ROOM, fixed.ROOM + 1, 1000])
def test_a_crowd_is_right_as_long_as_there_is_room(library, anchors: int):
    prediction = predictions(0, 1, 3, anchors, torch.float16, spread=5000)
    prediction[:, 4] = torch.rand(anchors, generator=torch.Generator().manual_seed(1)) / 2 + 0.5
    found, expected = ours(library, prediction), fixed.fixed_nms(prediction, 0.25, 0.7, 300)
    assert found[0, -1, 1] == expected[0, -1, 1] == (anchors <= fixed.ROOM)
    if anchors <= fixed.ROOM:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("boxes", [40, 200])
def test_a_chain_is_followed_to_its_end(library, boxes: int):
    prediction = long_chain(boxes)
    assert fixed.fixed_nms(prediction, 0.25, 0.5, 300)[0, -1, 1] == 0, "the test must be able to fail"
    found = ours(library, prediction, iou=0.5)[0]
    assert found[-1, :2].tolist() == [boxes / 2, 1]
    assert torch.equal(found[: boxes // 2, 4], prediction[0, 4, ::2])


def test_scores_that_are_no_numbers_are_no_detections(library):
    prediction = predictions(3, 1, 6, 90, torch.float32)
    prediction[0, 5, ::3] = torch.nan
    expected = fixed.fixed_nms(prediction, 0.25, 0.7, 300)
    assert torch.equal(ours(library, prediction), expected)
    assert expected[0, -1, 0] > 0, "the test must be able to fail"


@pytest.mark.parametrize("wanted", [[], [2], [0, 4, 79], [81]])
def test_only_wanted_classes_count(library, wanted: list[int]):
    prediction = predictions(4, 2, 80, 150, torch.bfloat16)
    classes = torch.tensor(wanted, dtype=torch.float32)
    expected = fixed.fixed_nms(prediction, 0.25, 0.7, 300, wanted=classes)
    assert torch.equal(ours(library, prediction, wanted=classes), expected)


@pytest.mark.parametrize("picture", [(480, 640, 3), (300, 97, 3), (1080, 1920, 3)])
def test_boxes_are_moved_to_the_pixels_of_the_picture(library, picture: tuple[int, int, int]):
    size = 384, 640
    prediction = predictions(5, 2, 3, 120, torch.float16, spread=600)
    rows = fixed.fixed_nms(prediction, 0.25, 0.7, 300)
    expected = rows[:, :-1].double()
    ops.scale_boxes(size, expected[..., :4], picture)
    found = ours(library, prediction, placing=placing_of(size, picture))
    for image, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        count = int(rows[image, -1, 0])
        assert torch.allclose(mine[:count].double(), theirs[:count], rtol=1e-6, atol=1e-4)
        assert not mine[count:-1].any()
        assert torch.equal(mine[-1], rows[image, -1])
