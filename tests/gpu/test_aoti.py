# SPDX-License-Identifier: AGPL-3.0-or-later
"""A package of AOTInductor for this GPU: compiled, compared and run. Needs one NVIDIA GPU, g++, and CUDA's
headers (the lock of the train image has them, or a toolkit in CUDA_HOME); compiling takes minutes.

python -m pytest tests/gpu/test_aoti.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import lively
from yolov12 import YOLO
from yolov12.export import aoti_file, boxes, gate

IMGSZ = 320
ANCHORS = 2100
"""Of such a picture: none of its boxes is left out, of which there may be many."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.pt"
    lively.make("yolo12n.yaml", IMGSZ, share=0.03).save(path)
    return path


def noise(count: int) -> list[np.ndarray]:
    """Blurred, as what such a network is made with: in photos it may find nothing, depending on the machine that made it."""
    coarse = np.random.default_rng(0).integers(256, size=(count, 16, 16, 3), dtype=np.uint8)
    return [cv2.resize(picture, (IMGSZ, IMGSZ), interpolation=cv2.INTER_NEAREST) for picture in coarse]


@pytest.mark.parametrize("half", [False, True])
def test_a_package_for_this_gpu_finds_what_its_source_finds(weights: Path, half: bool) -> None:
    """float16 rounds an untrained network's scores about: it is held to most boxes, float32 to all but those that NMS barely keeps."""
    path = Path(YOLO(weights).export(format="aoti", imgsz=IMGSZ, batch=2, half=half, device=0, verify=not half))
    arch = "sm_" + "".join(map(str, torch.cuda.get_device_capability()))
    assert path.name == f"lively_{arch}.pt2"
    assert aoti_file.origin_of(aoti_file.metadata_of(path)).arch == arch
    source, exported = (
        YOLO(file).predict(
            noise(8), imgsz=IMGSZ, rect=False, max_det=ANCHORS, quantize=quantize, device=0, verbose=False
        )
        for file, quantize in ((weights, 16 if half else None), (path, None))
    )
    found = most = 0
    for expected, got in zip(source, exported, strict=True):
        assert got.boxes.data.device.type == "cuda"
        rows = [result.boxes.data.cpu().numpy() for result in (expected, got)]
        found += sum(pair[2] > 0.9 for pair in boxes.pair_up(*rows))
        most += max(map(len, rows))
    assert most > 50
    assert found >= (0.8 if half else 0.98) * most


def test_predictions_by_graphs_are_the_same(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = YOLO(weights).export(format="aoti", imgsz=IMGSZ, batch=2, device=0)  # from the cache
    options = {"device": 0, "verbose": False}
    expected = [result.boxes.data for result in YOLO(path).predict(gate.bundled_images(), **options)]
    monkeypatch.setenv("YOLOV12_PREDICT_GRAPHS", "1")
    model = YOLO(path)
    for _ in range(4):
        found = [result.boxes.data for result in model.predict(gate.bundled_images(), **options)]
        assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(expected, found, strict=True))
    graphs = model.predictor.fast.network
    assert graphs.off is None
    assert len(graphs._replays) == 1, graphs._replays.off


def test_it_runs_on_the_gpu_also_where_device_says_cpu(weights: Path) -> None:
    from ultralytics.nn.autobackend import AutoBackend

    path = YOLO(weights).export(format="aoti", imgsz=IMGSZ, batch=2, device=0)  # from the cache
    backend = AutoBackend(path, device=torch.device("cpu"), verbose=False)
    assert backend.device.type == "cuda"
    assert backend(torch.zeros(2, 3, IMGSZ, IMGSZ, device="cuda")).device.type == "cuda"
