# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a model keeps, found by arithmetic, is what torch's own functions for tensors without data find."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine import on_shapes
from yolov12.model import attention, fused
from yolov12.model.attention import kernels
from yolov12.model.fused import trace as traced

REPOSITORY = Path(__file__).parents[3]
# A pool with ceil_mode, a transposed convolution and an average pool are torch's; relu and plain batch norms are v6's.
MODELS = ["yolo12n.yaml", "yolo11n.yaml", "yolo26n.yaml", "yolov9t.yaml", "yolov6n.yaml", "yolov3-tiny.yaml"]


@pytest.mark.parametrize("how", ["a flash kernel", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_a_trace_is_torchs_to_the_byte(name, how, monkeypatch):
    attention.install()
    fused.install()
    kernel = kernels.sdpa_flash if how == "a flash kernel" else traced._plain_under_autocast
    monkeypatch.setattr(traced, "_attention", lambda device, dtype: kernel)
    model = DetectionModel(name, verbose=False).train()
    for shape in ((3, 3, 64, 96), (1, 3, 160, 160)):
        assert on_shapes.trace(model, shape, torch.bfloat16) == traced.trace(model, shape, torch.bfloat16)


def nhwc(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta").to(memory_format=torch.channels_last)


def nchw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


CASES = {
    "strided": lambda: F.conv2d(nchw(2, 6, 9, 7), nchw(4, 3, 3, 2), None, (2, 1), (1, 0), (1, 2), 2),
    "transposed": lambda: F.conv_transpose2d(nchw(2, 4, 5, 5), nchw(4, 3, 2, 2), None, 2),
    "one dimension": lambda: F.conv1d(nchw(2, 4, 9), nchw(3, 4, 3), None, 2, 1),
    "channels last": lambda: F.conv2d(nhwc(2, 6, 9, 7), nchw(4, 6, 3, 3)),
    "sum of two orders": lambda: nhwc(2, 3, 4, 5) + nchw(2, 3, 4, 5),
    "sum of the other two": lambda: nchw(2, 3, 4, 5) + nhwc(2, 3, 4, 5),
    "sum of two types": lambda: nchw(2, 3) + nchw(2, 3, dtype=torch.float64),
    "sum of two shapes": lambda: nchw(2, 3, 4) + nchw(3, 1),
    "sum with a number": lambda: nhwc(2, 3, 4, 5) + 1,
    "product of whole numbers with a fraction": lambda: nchw(2, 3, dtype=torch.int64) * 0.5,
    "part": lambda: F.silu(nchw(2, 6, 4, 5)[:, 2:4]),
    "turned": lambda: F.silu(nchw(2, 6, 4).transpose(0, 2)),
    "repeated": lambda: F.silu(nchw(1, 6, 4).expand(3, 6, 4)),
    "copied in order": lambda: nhwc(2, 3, 4, 5).contiguous(),
    "copied otherwise": lambda: nchw(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "in another type": lambda: nhwc(2, 3, 4, 5).half(),
    "joined": lambda: torch.cat([nchw(2, 3, 4), nchw(2, 1, 4)], -2),
    "joined with nothing": lambda: torch.cat([nchw(2, 3, 4), nchw(0)], 1),
    "joined channels last": lambda: torch.cat([nhwc(2, 3, 4, 5), nhwc(2, 2, 4, 5)], 1),
    "pooled": lambda: F.max_pool2d(nchw(2, 3, 9, 9), 3, 2, 1),
    "pooled upwards": lambda: F.max_pool2d(nchw(2, 3, 8, 8), 3, 2, 0, ceil_mode=True),
    "enlarged": lambda: F.interpolate(nchw(2, 3, 4, 5), scale_factor=2),
    "softmax": lambda: nchw(2, 3, 4).softmax(1),
    "product of matrices": lambda: nchw(2, 3, 4) @ nchw(2, 4, 6),
    "batch norm": lambda: torch.native_batch_norm(nhwc(2, 3, 4, 5), None, None, None, None, True, 0.1, 1e-3),
    "batch norm of halves": lambda: torch.native_batch_norm(
        nchw(2, 3, 4, 5, dtype=torch.half), nchw(3), nchw(3), None, None, True, 0.1, 1e-3
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operation_answers_as_torch_does(case):
    expected = CASES[case]()
    with on_shapes.Arithmetic():
        made = CASES[case]()
    for ours, theirs in zip(*((x if isinstance(x, tuple) else (x,)) for x in (made, expected)), strict=True):
        assert (ours.shape, ours.stride(), ours.dtype, ours.device) == (
            theirs.shape,
            theirs.stride(),
            theirs.dtype,
            theirs.device,
        )


def test_what_is_wrong_is_told_by_torch():
    with on_shapes.Arithmetic(), pytest.raises(RuntimeError):
        F.conv2d(nchw(1, 3, 8, 8), nchw(4, 5, 3, 3))
    with on_shapes.Arithmetic(), pytest.raises(RuntimeError):
        F.conv2d(nchw(1, 3, 2, 2), nchw(4, 3, 3, 3))
    with on_shapes.Arithmetic(), pytest.raises(RuntimeError):
        torch.cat([nchw(2, 3), nchw(3, 3)], 1)


def test_tensors_with_data_are_left_alone():
    with on_shapes.Arithmetic():
        assert torch.equal(F.silu(torch.ones(2)) + torch.ones(2), torch.nn.functional.silu(torch.ones(2)) + 1)


WITHOUT_COMPILER = """
import sys, torch
from ultralytics.nn.tasks import DetectionModel
from yolov12.engine import on_shapes
from yolov12.model import attention, fused
from yolov12.model.attention import kernels
from yolov12.model.fused import trace as traced

attention.install()
fused.install()
traced._attention = lambda device, dtype: kernels.sdpa_flash
for name in ("yolo12n.yaml", "yolo11n.yaml", "yolov8n.yaml"):
    for images in (1, 2):
        on_shapes.trace(DetectionModel(name, verbose=False).train(), (images, 3, 640, 640), torch.bfloat16)
print(*{"torch._dynamo", "sympy"} & sys.modules.keys(), sep=",")
"""


def test_neither_the_compiler_nor_sympy_is_imported_for_it():
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WITHOUT_COMPILER]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.splitlines()[-1] == ""
