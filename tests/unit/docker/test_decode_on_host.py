# SPDX-License-Identifier: AGPL-3.0-or-later
"""docker/kernels/decode.cu, compiled for the CPU by g++: predictions are those of ultralytics' head in float64. On a GPU: tests/gpu/test_head.py."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor
from ultralytics.nn.modules.head import Detect

from tests.unit.docker.on_host import compiled

TYPES = [torch.float32, torch.float16, torch.bfloat16]
"""In the order of the enum Type (docker/kernels/batch_norm_act.h)."""
LAST_PLACE = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.fixture(scope="module")
def library(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(repository / "docker/kernels", "decode", tmp_path_factory.mktemp("decode"))


def expected(boxes: Tensor, scores: Tensor, sizes: list[tuple[int, int]], strides: list[float], xyxy: bool) -> Tensor:
    """By upstream's head, in float64. `boxes` is (images, anchors, 64), `scores` (images, anchors, classes)."""
    head = Detect(scores.shape[2], ch=[16] * len(sizes)).double().eval()
    head.stride, head.xyxy = torch.tensor(strides).double(), xyxy
    maps = [boxes.new_zeros(len(boxes), 1, *size).double() for size in sizes]
    return head._inference(
        {"boxes": boxes.double().transpose(1, 2), "scores": scores.double().transpose(1, 2), "feats": maps}
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("classes", "width"), [(3, 8), (64, 64), (80, 80), (130, 136)])
@pytest.mark.parametrize("xyxy", [False, True])
def test_predictions_are_the_heads(library, dtype, classes, width, xyxy):
    torch.manual_seed(0)
    sizes, strides = [(7, 9), (4, 5), (2, 3)], [8.0, 16.0, 32.0]  # a block more than one, and a part of one
    begins = [0, 63, 83]
    boxes = (3 * torch.randn(2, 89, 64)).to(dtype)
    scores = torch.full((2, 89, width), torch.nan, dtype=dtype)
    scores[..., :classes] = 3 * torch.randn(2, 89, classes)
    y = torch.full((2, 4 + classes, 89), torch.nan, dtype=dtype)
    numbers = [2, 89, classes, width, TYPES.index(dtype), not xyxy, 3, *begins, *(size[1] for size in sizes)]
    library.decode_predictions(
        (ctypes.c_int * len(numbers))(*numbers),
        *(ctypes.c_void_p(one.data_ptr()) for one in (boxes, scores)),
        (ctypes.c_float * 3)(*strides),
        ctypes.c_void_p(y.data_ptr()),
    )
    exact = expected(boxes, scores[..., :classes], sizes, strides, xyxy)
    assert ((y.double() - exact).abs() <= 1.01 * LAST_PLACE[dtype] * exact.abs() + 1e-4).all()
