# SPDX-License-Identifier: AGPL-3.0-or-later
"""ONNX files that stock's exporter writes for us. CPU, seconds; one small network is exported once and shared."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import onnx as onnx_package
import pytest
import torch

from tests.unit.export.lively import lively_model
from yolov12.errors import UserError
from yolov12.export import adapter, gate, onnx, parity


@pytest.fixture(scope="module")
def images(repository):
    """Two photos of blood cells, and noise that is taller than wide."""
    photos = sorted((repository / "tests" / "data" / "bccd-mini" / "images" / "train").glob("*.jpg"))[:2]
    return [*photos, np.random.default_rng(0).integers(0, 256, (200, 64, 3), dtype=np.uint8)]


def test_the_file_is_written_where_it_was_asked_for(exported):
    assert exported.name == "small.onnx"
    assert exported.is_file()


def test_the_model_does_not_remember_where_it_was_exported_to(model, exported):
    assert "pt_path" not in vars(model.model)


def test_a_checkpoint_keeps_its_own_path_after_an_export_elsewhere():
    network = torch.nn.Identity()
    network.pt_path = "weights/best.pt"
    with adapter.written_to(network, Path("elsewhere.onnx")):
        assert network.pt_path == "elsewhere.pt"
    assert network.pt_path == "weights/best.pt"


def test_raw_outputs_are_those_of_the_source(model, exported, images):
    measured = parity.require_raw(parity.compare_raw(model.model, exported, images))
    assert measured.height_width == (96, 96)
    assert measured.images == 3


def test_another_network_is_told_apart(exported, images):
    other = lively_model(seed=1).model
    with pytest.raises(parity.ParityError, match="output0 by "):
        parity.require_raw(parity.compare_raw(other, exported, images))


def test_a_dynamic_file_agrees_at_a_size_it_was_not_traced_with(model, images, tmp_path):
    dynamic = onnx.export(model, tmp_path / "dynamic.onnx", imgsz=(64, 96), dynamic=True, verify=False)
    assert parity.require_raw(parity.compare_raw(model.model, dynamic, images)).height_width == (64, 96)
    assert parity.require_raw(parity.compare_raw(model.model, dynamic, images, imgsz=160)).height_width == (160, 160)


def opened(file: Path, sizes: tuple[str, ...]) -> None:
    """Have a file say that it takes any of these, whatever was built into it."""
    graph = onnx_package.load(file)
    for name, side in zip(
        ("batch", "channels", "height", "width"), graph.graph.input[0].type.tensor_type.shape.dim, strict=True
    ):
        if name in sizes:
            side.dim_param = name
    onnx_package.save(graph, file)


def test_a_file_of_any_size_is_compared_at_another_one_and_two_pictures_at_a_time(model, tmp_path):
    dynamic = onnx.export(model, tmp_path / "dynamic.onnx", imgsz=96, dynamic=True, verify=False)
    assert parity.open_onnx(dynamic).batch == 2
    lines = gate.verify(gate.Case(model.model, dynamic, "onnx", "fp32", (96, 96)))
    assert [line.partition(" images at ")[2].partition(":")[0] for line in lines] == ["96x96", "128x160"]


def test_a_classifier_is_compared_too(tmp_path):
    from ultralytics import YOLO

    classifier = YOLO("yolo11n-cls.yaml")
    file = onnx.export(classifier, tmp_path / "classifier.onnx", imgsz=64, verify=False)
    assert len(gate.verify(gate.Case(classifier.model, file, "onnx", "fp32", (64, 64)))) == 1


def test_a_network_with_a_stride_of_64_is_compared_at_a_size_that_it_takes(tmp_path):
    from ultralytics import YOLO

    wide = YOLO("yolov8n-p6.yaml")
    dynamic = onnx.export(wide, tmp_path / "dynamic.onnx", imgsz=128, dynamic=True, verify=False)
    lines = gate.verify(gate.Case(wide.model, dynamic, "onnx", "fp32", (128, 128)))
    sizes = [line.partition(" images at ")[2].partition(":")[0] for line in lines if " images at " in line]
    assert sizes == ["128x128", "192x256"]


def test_a_network_that_does_not_take_the_other_size_is_compared_at_its_own(model, tmp_path):
    """One whose areas do not divide a map, say."""

    def divide(_, given):
        if given[0].shape[2:] != (96, 96):
            raise RuntimeError("shape '[4, 5, 64]' is invalid")

    dynamic = onnx.export(model, tmp_path / "dynamic.onnx", imgsz=96, dynamic=True, verify=False)
    hook = model.model.register_forward_pre_hook(divide)
    try:
        lines = gate.verify(gate.Case(model.model, dynamic, "onnx", "fp32", (96, 96)))
    finally:
        hook.remove()
    assert lines[1:] == [
        "parity: not at another size as well: the network itself does not take 128x160: shape '[4, 5, 64]' is invalid"
    ]


@pytest.mark.parametrize("sizes", [("height", "width"), ("batch",)], ids=str)
def test_what_was_built_into_a_file_that_says_it_takes_any_is_found(model, tmp_path, sizes):
    fixed = onnx.export(model, tmp_path / "fixed.onnx", imgsz=96, verify=False)
    assert len(gate.verify(gate.Case(model.model, fixed, "onnx", "fp32", (96, 96)))) == 1
    opened(fixed, sizes)
    with pytest.raises(
        parity.ParityError, match=r"does not run on pictures that it says it takes|gives outputs of shape"
    ):
        gate.verify(gate.Case(model.model, fixed, "onnx", "fp32", (96, 96)))


def test_a_fixed_batch_is_filled_up(model, images, tmp_path):
    pairs = onnx.export(model, tmp_path / "pairs.onnx", imgsz=160, batch=2, verify=False)
    assert parity.require_raw(parity.compare_raw(model.model, pairs, images)).images == 3


def test_half_stores_half_the_bytes_and_needs_another_threshold(model, exported, images, tmp_path):
    half = onnx.export(model, tmp_path / "half.onnx", imgsz=96, half=True, verify=False)
    assert half.stat().st_size < 0.6 * exported.stat().st_size
    measured = parity.compare_raw(model.model, half, images)
    with pytest.raises(parity.ParityError, match="half=False"):
        parity.require_raw(measured)


def test_a_file_with_nms_in_it_is_not_compared_as_raw_outputs(model, images, tmp_path):
    with_nms = onnx.export(model, tmp_path / "nms.onnx", imgsz=64, nms=True, verify=False)
    with pytest.raises(parity.ParityError, match="without nms=True"):
        parity.compare_raw(model.model, with_nms, images)


def test_a_missing_package_is_named_instead_of_installed(model, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxslim" else find_spec(name))
    with pytest.raises(UserError, match="pip install onnxslim"):
        onnx.export(model, tmp_path / "x.onnx")


def test_another_suffix_is_refused(model, tmp_path):
    with pytest.raises(UserError, match=r"model\.onnx"):
        onnx.export(model, tmp_path / "model.pt")


def test_a_folder_that_can_not_be_made_is_named(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can not write"):
        onnx.export(model, tmp_path / "file" / "x.onnx")


def test_what_the_exporter_says_names_this_program_and_no_file_that_is_not_there(model, tmp_path, monkeypatch, capsys):
    from ultralytics.utils import LOGGER

    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(adapter.log, "program", lambda: "bin/yolov12")
    before = list(LOGGER.filters)
    LOGGER.addHandler(handler)
    try:
        onnx.export(model, tmp_path / "small.onnx", imgsz=64, verify=False)
    finally:
        LOGGER.removeHandler(handler)
    text = "\n".join(said)
    assert f"Predict:         bin/yolov12 predict task=detect model={tmp_path}/small.onnx" in text
    assert "bin/yolov12 val task=detect" in text
    assert "starting from '" not in text
    assert "input shape (1, 3, 64, 64)" in text
    assert "export success" not in text, "it had yet to be compared"
    assert f"export: {tmp_path}/small.onnx (" in capsys.readouterr().err
    assert " MB)" not in text
    assert LOGGER.filters == before
