# SPDX-License-Identifier: AGPL-3.0-or-later
"""One network and its float32 ONNX file for all tests of this folder that change neither."""

import shutil
from pathlib import Path

import pytest

from tests.unit.export.lively import lively_model
from tests.unit.export.trt_stand_in import TensorRT
from yolov12.engine.patches import install_patches
from yolov12.export import engine, gate, onnx, seen


@pytest.fixture(scope="module", autouse=True)
def _patched():
    """As `YOLO` leaves it: tests of other folders, which run in between, may have put ultralytics' own functions back since `model` was made."""
    install_patches()


@pytest.fixture(scope="package")
def model():
    return lively_model(seed=0)


@pytest.fixture(scope="package")
def exported(model, tmp_path_factory):
    return onnx.export(model, tmp_path_factory.mktemp("exported") / "deep" / "small.onnx", imgsz=96)


@pytest.fixture
def network(model, tmp_path):
    """That network, as if it had come from a file in the test's folder."""
    model.model.pt_path = str(tmp_path / "best.pt")
    yield model.model
    del model.model.pt_path


class Stock:
    """`ultralytics.YOLO.export`: writes the traced graph beside the network's checkpoint."""

    def __init__(self, network, source):
        self.network, self.source, self.called, self.calls = network, source, {}, 0

    def __call__(self, **arguments):
        self.called = arguments
        self.calls += 1
        return shutil.copy(self.source, Path(self.network.pt_path).with_suffix(".onnx"))


@pytest.fixture
def stock(network, exported):
    return Stock(network, exported)


@pytest.fixture
def tensorrt(monkeypatch, tmp_path):
    """TensorRT-RTX, or what stands for it, and a cache of its own."""
    trt = TensorRT("tensorrt_rtx", "1.7.1")
    trt.ComputeCapability = type(
        "ComputeCapability", (), {f"SM{arch}": int(arch) for arch in ("75", *engine.RTX_ARCHS)}
    )
    monkeypatch.setattr(engine, "module", lambda: trt)
    monkeypatch.setenv("YOLOV12_TRT_CACHE_DIR", str(tmp_path / "engines"))
    return trt


@pytest.fixture
def loose(monkeypatch):
    """An untrained network is chaotic: any rounding changes what it sees."""
    anything = seen.Tolerance(1e9, 1.0, 0.3)
    monkeypatch.setattr(gate, "TOLERANCES", dict.fromkeys(("fp32", "fp16", "int8"), anything))
