# SPDX-License-Identifier: AGPL-3.0-or-later
"""ultralytics suppresses by torchvision's kernel, and torchvision is not imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from ultralytics.utils import nms

from benchmarks import lively
from yolov12.engine import nms_kernel

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported it."""
    monkeypatch.delitem(sys.modules, "torchvision")


@pytest.fixture
def anew() -> Iterator[None]:
    """The kernel is looked for in the test, and again after it."""
    nms_kernel.kernel.cache_clear()
    yield
    nms_kernel.kernel.cache_clear()


def crowd(equal_scores: bool) -> torch.Tensor:
    """(1, 4 + 2 classes, 300 anchors) whose boxes overlap; ties are left open by other ways of suppressing."""
    generator = torch.Generator().manual_seed(0)
    boxes = 20 + 60 * torch.rand(1, 4, 300, generator=generator)
    scores = torch.rand(1, 2, 300, generator=generator)
    return torch.cat((boxes, (4 * scores).round() / 4 if equal_scores else scores), 1)


@pytest.mark.parametrize("equal_scores", [False, True], ids=["scores", "ties"])
def test_what_stands_is_what_torchvision_says(without_torchvision, monkeypatch, equal_scores):
    prediction = crowd(equal_scores)
    with nms_kernel.at_hand():
        (found,) = nms.non_max_suppression(prediction, 0.2, 0.5)
    assert "torchvision" not in sys.modules
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    (expected,) = nms.non_max_suppression(prediction, 0.2, 0.5)
    assert 10 < len(found) < 300
    assert torch.equal(found, expected)


OTHER_THREAD = """
import sys, threading
from yolov12.engine import nms_kernel
inside, leave = threading.Event(), threading.Event()
def suppress():
    with nms_kernel.at_hand():
        inside.set()
        leave.wait(60)
thread = threading.Thread(target=suppress)
thread.start()
inside.wait()
try:
    import torchvision
    print(torchvision.ops.box_iou.__name__, type(sys.modules["torchvision"]).__name__)
finally:
    leave.set()
    thread.join()
"""


def test_another_thread_that_imports_torchvision_meanwhile_has_all_of_it():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", OTHER_THREAD]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["box_iou", "module"]


def test_a_torchvision_that_is_there_is_the_one_that_is_used(monkeypatch):
    used = []
    ops = SimpleNamespace(nms=lambda *given: used.append(given) or torchvision.ops.nms(*given))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(ops=ops))
    with nms_kernel.at_hand():
        nms.non_max_suppression(crowd(equal_scores=False))
    assert len(used) == 1


@pytest.mark.parametrize("problem", ["no-library", "of-another-torch", "another-name"])
def test_where_the_kernel_is_not_to_be_had_torchvision_is_imported(anew, without_torchvision, monkeypatch, problem):
    imported = []
    if problem == "no-library":
        monkeypatch.setattr(nms_kernel, "LIBRARY", "_nothing")
    elif problem == "of-another-torch":

        def refuse(path: str) -> None:
            raise OSError("undefined symbol")

        monkeypatch.setattr(torch.ops, "load_library", refuse)
    else:
        monkeypatch.setattr(nms_kernel.torch, "ops", SimpleNamespace(load_library=lambda path: None))
    monkeypatch.setattr(nms_kernel.importlib, "import_module", imported.append)
    with nms_kernel.at_hand():
        pass
    assert imported == ["torchvision"]


def test_without_torchvision_its_own_error_is_what_one_reads(anew, without_torchvision, monkeypatch):
    monkeypatch.setattr(nms_kernel, "PACKAGE", "no_such_torchvision")
    with pytest.raises(ModuleNotFoundError, match="no_such_torchvision"), nms_kernel.at_hand():
        pass


FIRST_ANSWER = """
import sys
import numpy as np
from yolov12 import YOLO
pictures = [np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8) for seed in range(2)]
asked = dict(imgsz=96, conf=0.001, device="cpu", verbose=False)
rows = [result.boxes.data for result in YOLO(sys.argv[1]).predict(pictures, **asked)]
late = {"torchvision", "torch._dynamo", "sympy"} & sys.modules.keys()
import torchvision
from ultralytics.models.yolo.detect import DetectionPredictor
stock = YOLO(sys.argv[1]).predict(pictures, predictor=DetectionPredictor, **asked)
same = all((mine == result.boxes.data).all() for mine, result in zip(rows, stock, strict=True))
print(min(map(len, rows)) > 0, bool(same), sorted(late))
"""


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_the_first_boxes_on_a_cpu_wait_for_no_compiler_and_are_stocks(tmp_path: Path, suffix):
    path = tmp_path / "lively.pt"
    model = lively.make("yolo11n.yaml", 96, share=0.1)
    model.save(path)
    if suffix == ".onnx":
        path = Path(model.export(format="onnx", imgsz=96))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", FIRST_ANSWER, str(path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True True []"
