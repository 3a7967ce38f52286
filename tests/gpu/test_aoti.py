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
from ultralytics.nn.autobackend import AutoBackend

from benchmarks import lively
from yolov12 import YOLO
from yolov12.engine.network import predictions_of
from yolov12.export import aoti_file, gate

IMGSZ = 320


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.pt"
    lively.make("yolo12n.yaml", IMGSZ, share=0.03).save(path)
    return path


def noise(count: int) -> list[np.ndarray]:
    """Squares of one colour, of which such a network is made: in photos it may find nothing, depending on the machine that made it."""
    coarse = np.random.default_rng(0).integers(256, size=(count, 16, 16, 3), dtype=np.uint8)
    return [cv2.resize(picture, (IMGSZ, IMGSZ), interpolation=cv2.INTER_NEAREST) for picture in coarse]


def predicted(file: Path, pictures: list[np.ndarray], *, half: bool = False, tf32: bool = True) -> torch.Tensor:
    """(images, 4 + classes, anchors) float32 on the CPU, before NMS: its boxes and scores, two pictures at a time."""
    backend = AutoBackend(str(file), device=torch.device("cuda:0"), fp16=half, verbose=False)
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(backend.device) / 255
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        made = [backend(part.half() if backend.fp16 else part) for part in batch.split(2)]
    return torch.cat([predictions_of(one) for one in made]).float().cpu()


@pytest.mark.parametrize("half", [False, True])
def test_a_package_for_this_gpu_rounds_no_worse_than_its_source(weights: Path, half: bool) -> None:
    """Held to how far its source is from the answer in whole float32: behind NMS, an untrained network's boxes turn on the last bit."""
    path = Path(YOLO(weights).export(format="aoti", imgsz=IMGSZ, batch=2, half=half, device=0, verify=not half))
    arch = "sm_" + "".join(map(str, torch.cuda.get_device_capability()))
    assert path.name == f"lively_{arch}.pt2"
    assert aoti_file.origin_of(aoti_file.metadata_of(path)).arch == arch
    pictures = noise(8)
    exact = predicted(weights, pictures, tf32=False)
    assert (exact[:, 4:].amax(1) > 0.25).sum() > 50
    by_source, by_package = predicted(weights, pictures, half=half), predicted(path, pictures)
    for what, rows in (("boxes", slice(0, 4)), ("scores", slice(4, None))):
        source_off, package_off = ((made - exact)[:, rows].abs().mean() for made in (by_source, by_package))
        print(f"{what}: source {source_off:.2e}, package {package_off:.2e}")
        assert package_off <= 1.5 * source_off + 1e-5, what  # a GPU without TF32 has a source that is exact


def test_predict_leaves_a_packages_boxes_on_the_gpu(weights: Path) -> None:
    path = YOLO(weights).export(format="aoti", imgsz=IMGSZ, batch=2, device=0)  # from the cache
    found = YOLO(path).predict(noise(2), imgsz=IMGSZ, rect=False, device=0, verbose=False)
    assert all(len(result.boxes) and result.boxes.data.device.type == "cuda" for result in found)


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
    path = YOLO(weights).export(format="aoti", imgsz=IMGSZ, batch=2, device=0)  # from the cache
    backend = AutoBackend(path, device=torch.device("cpu"), verbose=False)
    assert backend.device.type == "cuda"
    assert backend(torch.zeros(2, 3, IMGSZ, IMGSZ, device="cuda")).device.type == "cuda"
