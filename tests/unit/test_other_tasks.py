# SPDX-License-Identifier: AGPL-3.0-or-later
"""The other tasks and the other detection models of ultralytics run through our `YOLO` as they do in stock.

CPU, one epoch each on a few generated pictures of one bright rectangle. The comparison with plain ultralytics, in a
process of its own, is in the slow tier.
"""

import csv
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

IMGSZ = 64
BATCH = 4


@dataclass(frozen=True)
class Case:
    task: str
    model: str
    label: str = ""
    """What an object is written as, from the corners of its rectangle (x1, y1, x2, y2 in 0..1)."""
    yaml: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    """Of its training."""


SEGMENT = "0 {x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2}"
POSE = "0 {xc} {yc} {w} {h} {x1} {y1} 2 {x2} {y2} 2"
BOX = "0 {xc} {yc} {w} {h}"
AS_THEY_ARE = dict.fromkeys(("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr"), 0.0)
"""Without augmentation: for detection ours is drawn anew for each picture (data/order.py), and upstream's from one stream of random numbers."""

CASES = {
    "segment": Case("segment", "yolo11n-seg.yaml", SEGMENT),
    "pose": Case("pose", "yolo11n-pose.yaml", POSE, "kpt_shape: [2, 3]\n"),
    "obb": Case("obb", "yolo11n-obb.yaml", SEGMENT),
    "classify": Case("classify", "yolo11n-cls.yaml"),
    "detect, yolo11n": Case("detect", "yolo11n.yaml", BOX, options=AS_THEY_ARE),
    "segment, with area attention": Case("segment", "yolo12n-seg.yaml", SEGMENT),
}


def train(case, data, out, device="cpu"):
    """One epoch with everything that is random switched to the same seed; returns the model."""
    from ultralytics import YOLO

    model = YOLO(case.model)
    model.train(
        data=data, epochs=1, imgsz=IMGSZ, batch=BATCH, workers=0, plots=False, device=device, project=out, name="run",
        **case.options,
    )  # fmt: skip
    return model


def write_data_set(case, root):
    """Four pictures to train on and two to validate on; returns what `data=` takes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", BATCH), ("val", 2)):
        for index in range(count):
            picture, corners = draw_rectangle(rng)
            if case.task == "classify":
                save(root / split / ("wide" if index % 2 else "tall") / f"{index}.jpg", picture)
            else:
                save(root / "images" / split / f"{index}.jpg", picture)
                label = root / "labels" / split / f"{index}.txt"
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(case.label.format(**corners) + "\n")
    if case.task == "classify":
        return str(root)
    (root / "data.yaml").write_text(
        f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: rectangle}}\n{case.yaml}"
    )
    return str(root / "data.yaml")


def draw_rectangle(rng):
    picture = rng.integers(0, 80, (IMGSZ, IMGSZ, 3), dtype=np.uint8)
    left, top = rng.integers(4, 20, 2)
    right, bottom = rng.integers(34, 60, 2)
    picture[top:bottom, left:right] = (40, 200, 240)
    x1, y1, x2, y2 = (float(edge) / IMGSZ for edge in (left, top, right, bottom))
    middle = {"xc": (x1 + x2) / 2, "yc": (y1 + y2) / 2, "w": x2 - x1, "h": y2 - y1}
    return picture, {"x1": x1, "y1": y1, "x2": x2, "y2": y2, **middle}


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def results(out):
    """The row of the only epoch in results.csv, without times."""
    with open(out / "run" / "results.csv") as file:
        (row,) = csv.DictReader(file)
    return {name.strip(): float(value) for name, value in row.items() if name.strip() != "time"}


@pytest.fixture(scope="module")
def ours():
    import yolov12

    return yolov12.YOLO


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def trained(request, ours, tmp_path_factory):
    """(case, model, folder) of one epoch through our class."""
    del ours  # asked for so that `from ultralytics import YOLO` is ours
    root = tmp_path_factory.mktemp(request.param.task)
    return request.param, train(request.param, write_data_set(request.param, root / "data"), root), root


def test_the_class_that_trained_is_ours(trained, ours):
    assert isinstance(trained[1], ours)


def test_only_detection_gets_our_trainer(trained):
    case, model, _ = trained
    is_ours = type(model.trainer).__module__.startswith("yolov12.")
    assert is_ours == (case.task == "detect")


def test_losses_are_finite(trained):
    losses = {name: value for name, value in results(trained[2]).items() if "loss" in name}
    assert losses
    assert all(math.isfinite(loss) for loss in losses.values()), losses


def test_the_checkpoint_predicts(trained, ours):
    case, _, root = trained
    model = ours(root / "run" / "weights" / "best.pt")
    assert model.task == case.task
    picture = next((root / "data").rglob("*.jpg"))
    (result,) = model.predict(picture, imgsz=IMGSZ, conf=0.001, device="cpu", verbose=False)
    answer = {"segment": "boxes", "classify": "probs", "detect": "boxes", "pose": "keypoints", "obb": "obb"}[case.task]
    assert getattr(result, answer) is not None


@pytest.mark.slow
def test_the_numbers_are_those_of_plain_ultralytics(trained, tmp_path):
    """The same seed on the same data, in a process that our package stays out of."""
    case, _, root = trained
    name = next(name for name, other in CASES.items() if other == case)
    data = root / "data" if case.task == "classify" else root / "data" / "data.yaml"
    environment = {**os.environ, "YOLOV12_DISABLE": "1"}
    subprocess.run([sys.executable, __file__, name, data, tmp_path], env=environment, check=True)
    assert results(root) == pytest.approx(results(tmp_path), rel=1e-3, abs=1e-4)


if __name__ == "__main__":  # the other process of the test above
    train(CASES[sys.argv[1]], sys.argv[2], Path(sys.argv[3]))
