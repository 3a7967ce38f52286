# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trainings of two epochs on a GPU with other arguments than usual, and of each task: they end, and their weights are finite. Needs an NVIDIA GPU.

Few objects of 64 px, so that a case takes seconds. What the arguments do is tested on the CPU; here it is whether the kernels, the CUDA graph and
the memory plan live with them.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit import test_other_tasks as tasks
from yolov12 import YOLO
from yolov12.data import synth

pytestmark = pytest.mark.timeout(300)

DEVICE = "0"
MODEL = "yolov12n.yaml"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "SGD": {"optimizer": "SGD"},
    "MuSGD": {"optimizer": "MuSGD"},
    "NAdam": {"optimizer": "NAdam"},
    "RMSProp": {"optimizer": "RMSProp"},
    "fp16": {"amp": "fp16"},
    "fp32": {"amp": False},
    "several sizes": {"multi_scale": 0.5},
    "frozen layers": {"freeze": 5},
    "one class": {"single_cls": True},
    "some classes": {"classes": [0, 2]},
    "class weights": {"cls_pw": 1.0},
    "an update of eight batches": {"nbs": 32},
    "an incomplete last batch": {"fraction": 0.7},
    "rectangles": {"rect": True, "data_pipeline": "cpu"},
    "pictures in memory": {"cache": "ram"},
    "ultralytics' loader": {"data_pipeline": "cpu"},
    "all augmentations": {
        "mixup": 0.5,
        "cutmix": 0.5,
        "degrees": 10,
        "shear": 5,
        "perspective": 0.001,
        "flipud": 0.5,
        "bgr": 0.5,
        "close_mosaic": 1,
    },
    "no channels_last": {"channels_last": False},
    "not deterministic": {"deterministic": False},
    "everything recomputed": {"checkpoint": "all"},
    "a batch that is found": {"batch": -1},
    "eleven seconds": {"time": 0.003},
    "no validation": {"val": False},
    "each epoch saved": {"save_period": 1},
    "a cosine": {"cos_lr": True, "warmup_epochs": 0},
    "yolo11n": {"model": "yolo11n.yaml"},
    "yolo26n": {"model": "yolo26n.yaml"},
    "yolov8n": {"model": "yolov8n.yaml"},
    "yolov10n": {"model": "yolov10n.yaml"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=16, n_val=4, imgsz=64)


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_it_ends_and_its_weights_are_numbers(data: Path, tmp_path: Path, arguments: dict[str, Any]) -> None:
    usual = {
        "epochs": 2,
        "imgsz": 64,
        "batch": 4,
        "nbs": 4,
        "amp": "bf16",
        "workers": 2,
        "plots": False,
        "device": DEVICE,
    }
    model = YOLO(arguments.get("model", MODEL))
    model.train(data=str(data), project=str(tmp_path), name="run", **{**usual, **arguments})
    rows = list(csv.DictReader((tmp_path / "run/results.csv").open()))
    assert rows
    assert all(math.isfinite(float(row["train/box_loss"])) for row in rows)
    weights = torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["model"].state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("name", tasks.CASES)
def test_every_task_trains_and_predicts(tmp_path: Path, name: str) -> None:
    case = tasks.CASES[name]
    data = tasks.write_data_set(case, tmp_path / "data")
    tasks.train(case, data, tmp_path, device=DEVICE)
    losses = {column: value for column, value in tasks.results(tmp_path).items() if "loss" in column}
    assert losses
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    picture = next((tmp_path / "data").rglob("*.jpg"))
    (result,) = YOLO(tmp_path / "run/weights/best.pt").predict(
        picture, imgsz=64, conf=0.001, device=DEVICE, verbose=False
    )
    assert result.speed["inference"] > 0
