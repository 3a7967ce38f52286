# SPDX-License-Identifier: AGPL-3.0-or-later
"""The key of a graph that is not traced yet: another for whatever decides what is traced, none where that can not be seen."""

import copy
import importlib.metadata

import pytest
import torch
from ultralytics.cfg import DEFAULT_CFG
from ultralytics.engine.exporter import Exporter
from ultralytics.engine.model import Model
from ultralytics.utils.export import engine

from yolov12.export import builder, fingerprint, onnx_key

ASKED = {"format": "onnx", "imgsz": 96, "dynamic": True, "opset": 18}


@pytest.fixture
def mine(model):
    """The model, to be changed."""
    return copy.deepcopy(model)


def key_of(model, **asked):
    return onnx_key.of_source(model.model, ASKED | asked, model)


def test_the_same_export_of_the_same_weights_has_one_key(model, tmp_path):
    from yolov12 import YOLO

    keys = []
    for name in ("a", "b"):
        model.save(tmp_path / f"{name}.pt")
        keys.append(key_of(YOLO(tmp_path / f"{name}.pt")))
    assert keys[0] == keys[1] is not None


@pytest.mark.parametrize(
    "argument",
    [
        {"imgsz": (96, 128)},
        {"batch": 2},
        {"dynamic": False},
        {"opset": 17},
        {"simplify": False},
        {"nms": True},
        {"nms": False},
        {"conf": 0.4},
        {"iou": 0.6},
        {"max_det": 100},
        {"agnostic_nms": True},
        {"device": 0},
    ],
)
def test_every_argument_of_the_exporter_makes_another(model, argument):
    assert key_of(model, **argument) not in (key_of(model), None)


def changed_weight(mine, monkeypatch):
    with torch.no_grad():
        mine.model.model[0].conv.weight[0, 0, 0, 0] += 1e-6


def changed_name_of_a_class(mine, monkeypatch):
    mine.model.names = {**mine.model.names, 0: "somebody"}


def changed_data_set_of_the_training(mine, monkeypatch):
    mine.model.args = {**mine.model.args, "data": "other.yaml"}


def changed_task(mine, monkeypatch):
    mine.model.task = "segment"


def changed_file_of_the_network(mine, monkeypatch):
    mine.model.yaml = {**mine.model.yaml, "yaml_file": "other.yaml"}


def changed_default_of_the_model(mine, monkeypatch):
    mine.overrides = {**mine.overrides, "max_det": 10}


def changed_default_of_ultralytics(mine, monkeypatch):
    monkeypatch.setattr(DEFAULT_CFG, "simplify", False)


def changed_torch(mine, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.12.0")


def another_gpu(mine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(builder, "gpu_here", lambda: "sm_90 NVIDIA H100")


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_name_of_a_class,
        changed_data_set_of_the_training,
        changed_task,
        changed_file_of_the_network,
        changed_default_of_the_model,
        changed_default_of_ultralytics,
        changed_torch,
        another_gpu,
    ],
)
def test_what_decides_the_file_makes_another(mine, monkeypatch, change):
    before = key_of(mine)
    change(mine, monkeypatch)
    assert key_of(mine) not in (before, None)


@pytest.mark.parametrize("package", onnx_key.PACKAGES)
def test_another_version_of_what_traces_makes_another(model, monkeypatch, package):
    before, version = key_of(model), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == package else version(name))
    assert key_of(model) not in (before, None)


def test_the_size_of_the_training_is_part_of_it_where_none_is_asked_for(mine):
    asked = {key: value for key, value in ASKED.items() if key != "imgsz"}
    keys = []
    for size in (320, 640):
        mine.model.args = {**mine.model.args, "imgsz": size}
        keys.append(onnx_key.of_source(mine.model, asked, mine))
    assert keys[0] != keys[1]


def test_a_network_whose_classes_have_no_names_has_a_key(mine):
    before = key_of(mine)
    del mine.model.names
    assert key_of(mine) not in (before, None)


def with_a_network_of_a_script(mine, monkeypatch):
    monkeypatch.setattr(fingerprint, "of", lambda network: None)


def with_a_callback_of_a_script(mine, monkeypatch):
    mine.add_callback("on_export_start", lambda exporter: None)


def with_an_exporter_of_a_script(mine, monkeypatch):
    monkeypatch.setattr(Exporter, "export_onnx", lambda self: None)


def with_an_export_of_a_script(mine, monkeypatch):
    monkeypatch.setattr(Model, "export", lambda self, **arguments: "")


def with_torchs_exporter_replaced(mine, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **arguments: None)


def with_ultralytics_call_of_it_replaced(mine, monkeypatch):
    monkeypatch.setattr(engine, "torch2onnx", lambda *args, **arguments: None)


def with_a_default_that_is_no_plain_value(mine, monkeypatch):
    mine.overrides = {**mine.overrides, "name": object()}


@pytest.mark.parametrize(
    "change",
    [
        with_a_network_of_a_script,
        with_a_callback_of_a_script,
        with_an_exporter_of_a_script,
        with_an_export_of_a_script,
        with_torchs_exporter_replaced,
        with_ultralytics_call_of_it_replaced,
        with_a_default_that_is_no_plain_value,
    ],
)
def test_where_a_script_may_decide_there_is_none(mine, monkeypatch, change):
    assert key_of(mine) is not None
    change(mine, monkeypatch)
    assert key_of(mine) is None
