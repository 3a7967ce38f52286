# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loading a model for our validator: the same line about it, and a warm-up that needs no torchvision."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics.utils.torch_utils as upstream
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine import backend, flops


class StandIn:
    """What ultralytics would load."""

    warmup = "its own"
    fp16 = False

    def __init__(self, seen: list[Any], file_format: str = "pt", device: str = "cuda") -> None:
        self.forward, self.format, self.device = seen.append, file_format, torch.device(device)


def test_on_a_gpu_one_forward_of_the_asked_shape_is_the_warm_up():
    seen: list[Any] = []
    model = backend.load(lambda **_: StandIn(seen), model="best.pt")
    model.device = torch.device("meta")  # there is no GPU here
    model.warmup(imgsz=(1, 3, 64, 96))
    model.fp16 = True
    model.warmup(imgsz=(2, 3, 32, 32))
    assert [(x.shape, x.dtype, x.device.type) for x in seen] == [
        ((1, 3, 64, 96), torch.float32, "meta"),
        ((2, 3, 32, 32), torch.float16, "meta"),
    ]


def test_on_the_cpu_there_is_nothing_to_warm_up():
    seen: list[Any] = []
    model = backend.load(lambda: StandIn(seen, device="cpu"))
    model.warmup(imgsz=(1, 3, 64, 64))
    assert not seen


@pytest.mark.parametrize("name", ["onnx", "engine", "torchscript"])
def test_files_of_other_formats_keep_their_warm_up(name):
    assert backend.load(lambda: StandIn([], name)).warmup == "its own"


def test_the_warm_up_keeps_no_model_alive():
    model = backend.load(lambda: StandIn([]))
    watched = weakref.ref(model)
    del model
    assert watched() is None


def test_the_line_about_a_model_is_ultralytics_own(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(upstream, "LOGGER", SimpleNamespace(info=said.append))
    for made_by, counter in ((backend.load, flops.known), (lambda own, **arguments: own(**arguments), flops._own)):
        monkeypatch.setattr(upstream, "get_flops", counter)
        made_by(AutoBackend, model=DetectionModel("yolo11n.yaml", verbose=False), device=torch.device("cpu"))
    assert said[0] == said[1]
    assert "(fused)" in said[0]
    assert "GFLOPs" in said[0]
