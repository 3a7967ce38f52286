# SPDX-License-Identifier: AGPL-3.0-or-later
"""A command line with nothing behind it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.command_line import Recorder, Report, checked_dataset, drawn_dataset
from yolov12 import compat, folders, log, settings
from yolov12.declare import PREFIX


@pytest.fixture
def no_settings(monkeypatch):
    """No setting in the environment, nothing said yet; what a test exports is undone."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(PREFIX):
            del os.environ[name]
    monkeypatch.setattr(log, "_said", set())
    settings._read.cache_clear()
    settings._chosen.cache_clear()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def command_line(no_settings, monkeypatch, tmp_path):
    """An empty folder to stand in, no workspace, no settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "no-workspace")


@pytest.fixture
def yolo(monkeypatch, tmp_path):
    """The recorder in the place of YOLO, stand-ins for the rooms behind the verbs, and the files that are named."""
    for name in ("a.yaml", "coco.yaml", "a.jpg"):
        (tmp_path / name).touch()
    recorder = type("YOLO", (Recorder,), {"calls": [], "overrides": {}})
    monkeypatch.setattr(compat, "yolo_class", lambda: recorder)
    stand_ins = {
        "yolov12.model.names": {"resolve": lambda name: name.replace("yolov12", "yolo12")},
        "yolov12.data.check": {"dataset": checked_dataset(recorder)},
        "yolov12.data.synth": {"bundled": lambda: Path("/bundled/data.yaml"), "write": drawn_dataset(recorder)},
        "yolov12.model.weights": {
            "convert_file": lambda source, target: Report([f"{source} -> {target}: turbo", "written"])
        },
        "yolov12.tools.channels": {
            "check": lambda model, name, data: recorder.calls.append(("channels", {"data": data}))
        },
        "yolov12.tools.demo_oom": {"main": lambda options: recorder.calls.append(("demo oom", options)) or 1},
        "yolov12.tools.demo": {
            "OPTIONS": ("epochs", "device"),
            "main": lambda options: recorder.calls.append(("demo", options)) or 0,
        },
    }
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return recorder
