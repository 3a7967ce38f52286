# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a script asks for beside the arguments of `train`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yolov12 import YOLO, settings
from yolov12.engine import yolo
from yolov12.errors import UserError
from yolov12.export import run


class Stop(Exception):
    """Instead of a training."""


@pytest.fixture(autouse=True)
def script_settings_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("YOLOV12_CHECKPOINT", raising=False)
    yield
    settings.apply_script_arguments({})


def checkpoint_of_a_run(attribute: Any, **arguments: Any) -> str:
    """The setting under which a training begins after `model.model.gradient_checkpointing = attribute`."""
    seen: list[str] = []

    def trainer(**_: Any) -> Any:
        seen.append(settings.current().checkpoint)
        raise Stop

    model = YOLO("yolov12n.yaml")
    if attribute is not None:
        model.model.gradient_checkpointing = attribute
    with pytest.raises(Stop):
        model.train(trainer=trainer, data="coco8.yaml", **arguments)
    return seen[0]


@pytest.mark.parametrize(("attribute", "meant"), [(None, "1"), (True, "all"), (False, "0")])
def test_the_attribute_of_the_model_reaches_the_training_both_ways(attribute: bool | None, meant: str) -> None:
    assert checkpoint_of_a_run(attribute) == meant


@pytest.mark.parametrize(("asked", "meant"), [(True, "all"), (False, "0")])
def test_it_is_an_argument_of_train_too(asked: bool, meant: str) -> None:
    assert checkpoint_of_a_run(not asked, gradient_checkpointing=asked) == meant


def test_a_recipe_lies_below_what_a_script_says(capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    def trainer(overrides: dict[str, Any], **_: Any) -> Any:
        seen.update(overrides)
        raise Stop

    model = YOLO("yolov12n.yaml")
    with pytest.raises(Stop):
        model.train(trainer=trainer, data="coco8.yaml", recipe="paper", epochs=3)
    assert (seen["epochs"], seen["copy_paste"], seen["optimizer"]) == (3, 0.1, "SGD")
    assert "recipe" not in seen
    assert "yours win: epochs=3" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"recipe=finetune goes on from trained weights, and yolo12n.yaml has none"):
        model.train(trainer=trainer, data="coco8.yaml", recipe="finetune")
    with pytest.raises(UserError, match="recipe=paper: a run that is resumed"):
        model.train(trainer=trainer, resume="last.pt", recipe="paper")


def test_an_argument_of_train_counts_more_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint_of_a_run(True, checkpoint=1) == "1"
    assert "gradient_checkpointing=True: checkpoint=1 of model.train counts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "is_said"), [({"label_smoothing": 0.1}, True), ({"label_smoothing": 0.0}, False), ({}, False)]
)
def test_an_argument_of_the_articles_that_changes_nothing_is_said_to(
    arguments: dict[str, Any], is_said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of_a_run(None, **arguments)
    assert ("label_smoothing=0.1 changes nothing" in capsys.readouterr().err) == is_said


def test_what_the_user_set_outside_of_the_script_counts_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV12_CHECKPOINT", "1")
    assert checkpoint_of_a_run(True) == "1"


def test_anything_but_true_and_false_is_refused() -> None:
    model = YOLO("yolov12n.yaml")
    model.model.gradient_checkpointing = "yes"
    with pytest.raises(UserError, match="expected True or False"):
        model.train(data="coco8.yaml")


@pytest.mark.parametrize("arguments", [{}, {"dry_run": True}], ids=["train", "dry run"])
def test_an_unknown_layer_is_refused_before_there_is_a_trainer(arguments: dict[str, Any]) -> None:
    """Which would have emptied the folder of an earlier run."""

    def trainer(**_: Any) -> Any:
        raise Stop

    with pytest.raises(UserError, match=r"disable_mas_layers=backbone\.99: the model has no such layer"):
        YOLO("yolov12n.yaml").train(
            trainer=trainer, data="coco8.yaml", disable_mas_layers="head,backbone.99", **arguments
        )


def test_the_map_of_a_model_that_has_predicted_is_taken_from_a_copy(monkeypatch: pytest.MonkeyPatch):
    """Its predictor has a lock, which can not be copied."""
    model = YOLO("yolo12n.yaml")
    model.predictor = SimpleNamespace(lock=threading.Lock())
    monkeypatch.setattr(run, "export", lambda network, export, arguments, measure, model: str(measure(None, (64, 64))))
    monkeypatch.setattr(yolo, "_mean_ap", lambda model, data, imgsz: model.predictor)
    assert model.export(data="my.yaml") == "None"
    assert model.predictor is not None


def test_a_model_and_its_export_are_measured_at_the_size_of_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's own size is what it was trained at, and that of a file that takes any size is 640."""
    asked: list[tuple[bool, Any]] = []

    def val(model: Any, **arguments: Any) -> Any:
        asked.append((isinstance(model.model, str), arguments["imgsz"]))
        return SimpleNamespace(results_dict={"metrics/mAP50-95(B)": 0.5})

    def export(network: Any, export: Any, arguments: Any, measure: Any, model: Any) -> str:
        return str([measure(file, (160, 160)) for file in (None, tmp_path / "best.onnx")])

    (tmp_path / "best.onnx").touch()
    monkeypatch.setattr(YOLO, "val", val)
    monkeypatch.setattr(run, "export", export)
    assert YOLO("yolo12n.yaml").export(data="my.yaml") == "[50.0, 50.0]"
    assert asked == [(False, 160), (True, 160)]


def test_a_stream_of_frames_asks_the_driver_about_its_gpu_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, used = [], iter([False, True, True])
    monkeypatch.setattr(yolo.devices, "visible_gpus", lambda: asked.append(1) or [])
    monkeypatch.setattr(yolo.devices, "is_in_use_here", lambda: next(used))
    for _ in range(3):
        assert yolo.with_device({"device": "0"}, count=1) == {"device": "0"}
    assert len(asked) == 1
    monkeypatch.setattr(yolo.devices, "is_in_use_here", lambda: True)
    yolo.with_device({"device": "0,1"})  # a training may still be of several kinds
    assert len(asked) == 2
