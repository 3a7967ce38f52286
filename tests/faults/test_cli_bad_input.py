# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bad input through the command line, with the real rooms behind it: one clear sentence, the exit code, nothing lost. Needs no GPU."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics import YOLO as StockOrOurs

from tests.faults.bad_data import CASES, write_damaged, write_good
from yolov12 import cli
from yolov12.engine.trainer import YOLOv12Trainer
from yolov12.memory.card import SimulatedCard

SMALL = ("epochs=1", "imgsz=64", "batch=2", "device=cpu", "plots=False", "val=False", "optimizer=SGD")

TINY_CARD_BYTES = 40_000_000
"""Less than one image of 256 px needs of yolov12s, more than one of 64 px does."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path / "cache"))
    yield
    os.environ.clear()  # a command line exports its settings
    os.environ.update(before)


def run(*words: str) -> int:
    return cli.main([*words])


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The error, with which the output ends: one line, or one and a list of faults indented below it."""
    said = capsys.readouterr().err.strip().splitlines()
    assert not [line for line in said if "Traceback" in line]
    begin = max(number for number, line in enumerate(said) if not line.startswith("  "))
    assert said[begin].startswith("error: "), said[-5:]
    return "\n".join(said[begin:])


@pytest.mark.parametrize("name", CASES)
def test_a_bad_data_set_ends_with_2_before_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = CASES[name].build(tmp_path / "data")
    assert run("train", f"data={data}", *SMALL) == 2
    message = the_error(capsys)
    assert [words for words in CASES[name].says if words not in message] == [], message
    assert not (tmp_path / "runs").exists()


def test_a_damaged_picture_is_skipped_counted_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, picture = write_damaged(tmp_path / "data", "truncated")
    assert run("train", f"data={data}", *SMALL) == 0
    said = capfd.readouterr().err
    assert "1 " in said
    assert picture.name in said


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("empty.pt", "empty"),
        ("noise.pt", "noise.pt"),
        ("yolov12q.yaml", "yolov12"),
        ("folder/missing.pt", "folder/missing.pt"),
    ],
)
def test_bad_weights_and_unknown_models_end_with_2(
    model: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 40)
    data = write_good(tmp_path / "data")
    assert run("train", f"data={data}", f"model={model}", *SMALL) == 2
    assert says in the_error(capsys)


@pytest.mark.parametrize("value", ["mem_safety_ratio=-0.1", "mem_safety_ratio=0.51", "mem_safety_ratio=half"])
def test_a_safety_ratio_that_can_not_be_ends_with_2_and_leaves_no_folder(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_good(tmp_path / "data")
    assert run("train", f"data={data}", value, *SMALL) == 2
    message = the_error(capsys)
    assert value in message
    assert "from 0 to 0.5" in message
    assert not (tmp_path / "runs").exists()


def test_a_layer_that_the_model_does_not_have_ends_with_2_before_the_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_good(tmp_path / "data")
    assert run("train", f"data={data}", "model=yolov12n.yaml", "disable_mas_layers=backbone.4,neck.99", *SMALL) == 2
    assert "disable_mas_layers=neck.99: the model has no such layer; it has backbone.0 to" in the_error(capsys)
    assert not list(tmp_path.rglob("results.csv"))


def test_a_device_that_can_not_hold_one_image_ends_with_2_before_the_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(YOLOv12Trainer, "__init__", functools.partialmethod(on_a_tiny_card, YOLOv12Trainer.__init__))
    data = write_good(tmp_path / "data")
    small = [word for word in SMALL if not word.startswith("imgsz")]
    assert run("train", f"data={data}", "model=yolov12s.yaml", "imgsz=256", *small) == 2
    message = the_error(capsys)
    assert "not even one image of 256x256 fits" in message
    assert "imgsz=" in message.partition("fits")[2]
    assert message.endswith("would fit")
    assert not list(tmp_path.rglob("results.csv"))


def on_a_tiny_card(self: object, real: Callable[..., None], *args: object, **kwargs: object) -> None:
    """A trainer whose device has too little memory."""
    real(self, *args, **kwargs, card=SimulatedCard(TINY_CARD_BYTES))


@pytest.mark.parametrize("value", ["optimizer=Adammm", "imgsz=-5", "batch=0", "lr0=-1", "device=gpu", "workers=-1"])
def test_a_value_that_can_not_be_ends_with_2_and_leaves_no_folder(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_good(tmp_path / "data")
    key = value.partition("=")[0]
    others = [argument for argument in SMALL if not argument.startswith(f"{key}=")]
    assert run("train", f"data={data}", *others, value) == 2
    assert value in the_error(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_weights_of_another_task_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StockOrOurs("yolo11n-cls.yaml").save("cls.pt")
    data = write_good(tmp_path / "data")
    assert run("train", f"data={data}", "model=cls.pt", "task=detect", *SMALL) == 2
    assert "classify" in the_error(capsys)


def test_an_output_folder_that_can_not_be_written_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    data = write_good(tmp_path / "data")
    assert run("train", f"data={data}", f"project={tmp_path / 'file' / 'runs'}", *SMALL) == 2
    assert "file/runs" in the_error(capsys)


def test_a_device_that_does_not_exist_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_good(tmp_path / "data")
    assert run("train", f"data={data}", *SMALL, "device=97") == 2
    assert "device=97 does not exist" in the_error(capsys)


def test_a_disk_that_fills_up_while_saving_ends_with_75_and_keeps_the_old_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_good(tmp_path / "data")
    save = torch.save
    saved: list[Path] = []

    def fills_up_at_the_second_epoch(content: Any, path: Any, *args: Any, **options: Any) -> None:
        if isinstance(path, Path) and path.name.startswith(".last.pt."):
            saved.append(path)
            if len(saved) == 2:
                path.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(content, path, *args, **options)

    monkeypatch.setattr(torch, "save", fills_up_at_the_second_epoch)
    assert run("train", f"data={data}", *SMALL, "epochs=3", "name=full") == 75
    message = the_error(capsys)
    assert "no space left" in message.lower()
    weights = tmp_path / "runs" / "detect" / "full" / "weights"
    assert torch.load(weights / "last.pt", weights_only=False)["epoch"] == 0
    assert not list(weights.glob(".*"))
