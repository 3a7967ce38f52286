# SPDX-License-Identifier: AGPL-3.0-or-later
"""One network and its float32 ONNX file for all tests of this folder that change neither."""

import pytest

from tests.unit.export.lively import lively_model
from yolov12.engine.patches import install_patches
from yolov12.export import onnx


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
