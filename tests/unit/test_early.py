# SPDX-License-Identifier: AGPL-3.0-or-later
"""What of a command line is refused before torch is imported, anything is said or a folder is made, and what is left to those who know more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.command_line import error_of
from yolov12 import cli, early
from yolov12.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("command_line")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train data=nope.yaml", "data=nope.yaml: there is no such file in "),
        ("train data=cocoo.yaml", "did you mean coco.yaml?"),
        ("train data=a.yaml optimizer=Adammm", "optimizer=Adammm: did you mean Adam?"),
        ("train data=a.yaml imgsz=-5", "imgsz=-5: type a whole number of pixels"),
        ("train data=a.yaml batch=0", "batch=0: type a whole number from 1"),
        ("train data=a.yaml epochs=1.5", "epochs=1.5: type a whole number from 1"),
        ("train data=a.yaml device=gpu", "device=gpu: type device=0"),
        ("train data=a.yaml model=empty.pt", "empty.pt is empty (0 bytes)"),
        ("predict model=a.pt source=b.jpg", "source=b.jpg: there is no such file or folder; did you mean a.jpg?"),
        ("val model=a.pt iou=7", "iou=7: type a number from 0 to 1"),
        ("export model=a.pt format=onxx", "format=onxx: did you mean onnx?"),
        ("demo epochs=0", "epochs=0: type a whole number from 1"),
        ("train data=a.yaml amp=fp16 device=cpu", "amp=fp16 needs a CUDA device and this run is on cpu; use"),
        ("train data=https://example.com/a.zip", "data=https://example.com/a.zip is an address: fetch and unpack it"),
    ],
)
def test_a_mistake_is_told_before_a_word_is_said_or_a_folder_made(yolo, capsys, tmp_path, line, says):
    (tmp_path / "empty.pt").touch()
    before = sorted(tmp_path.iterdir())
    assert cli.main(line.split()) == 2
    lines = [said for said in capsys.readouterr().err.splitlines() if not said.startswith("model=yolov12n.yaml (the")]
    assert len(lines) == 1
    assert says in lines[0]
    assert yolo.calls == []
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("source", ["0", "https://example.com/a.jpg", "*.jpg", "a.jpg", "."])
def test_a_source_that_may_be_there_is_left_to_ultralytics(yolo, source):
    assert cli.main(["predict", "model=a.pt", f"source={source}"]) == 0


@pytest.mark.parametrize("data", ["coco8.yaml", "coco8", "synth", "."])
def test_a_data_set_that_ultralytics_lists_and_a_folder_are_left_to_the_check(yolo, data):
    assert cli.main(["train", f"data={data}"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"task": "classify", "data": "mnist160"},
        {"model": "yolov12n-cls.yaml", "data": "mnist160"},
        {"model": "best.pt", "data": "mnist160"},
    ],
)
def test_the_name_of_a_classification_set_is_left_to_the_check(tmp_path, options):
    (tmp_path / "best.pt").write_text("weights of some task")
    early.check(options)


@pytest.mark.parametrize(
    "options",
    [
        {"task": "detect", "model": "yolov12n-cls.yaml", "data": "mnist160"},
        {"model": "yolov12n.yaml", "data": "mnist160"},
        {"model": "best.pt", "data": "nope.yaml"},
    ],
)
def test_what_can_be_no_classification_set_is_refused_early(tmp_path, options):
    (tmp_path / "best.pt").write_text("weights of some task")
    with pytest.raises(UserError, match="there is no such file"):
        early.check(options)


@pytest.mark.parametrize(
    "line",
    [
        "train data=nope.yaml",
        "train data=synth lr0=2",
        "train data=synth model=nope.pt",
        "train data=synth device=0",
        "train data=synth amp=fp16",
        "lr-find data=synth amp=bf16",
        "demo amp=fp16",
        "train data=https://example.com/a.zip",
        "val model=yolov12n.pt data=ul://someone/datasets/a",
        "train task=classify data=https://example.com/a.zip",
    ],
)
def test_a_mistake_is_told_without_importing_torch(line, tmp_path):
    code = f"import sys\nfrom yolov12 import cli, early\nearly.DRIVER = ()\nassert cli.main({line.split()!r}) == 2\n"
    code += "print('HEAVY', {'torch', 'ultralytics', 'numpy', 'cv2'} & set(sys.modules))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout.splitlines()[-1] == "HEAVY set()"


@pytest.mark.parametrize("driver", [(), (ROOT,)], ids=["no driver", "a driver"])
@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"model": "yolov12n.yaml"}, "no driver"),
        ({"model": "yolov12n.pt", "device": "auto"}, "no driver"),
        ({"model": "best.pt", "task": "detect"}, "no driver"),
        ({"device": "cpu"}, "always"),
        ({"device": "mps"}, "always"),
        ({"device": "cpu", "model": "yolov12n-seg.yaml"}, "never"),
        ({"device": "cpu", "model": "best.pt"}, "never"),
        ({"device": "cpu", "model": "https://example.com/best.pt"}, "never"),
        ({"device": "cpu", "task": "classify"}, "never"),
    ],
)
def test_a_16_bit_format_is_refused_early_where_boxes_are_trained_on_the_cpu(
    tmp_path, monkeypatch, driver, options, refused
):
    monkeypatch.setenv("YOLOV12_AMP", "fp16")
    monkeypatch.setattr(early, "DRIVER", driver)
    (tmp_path / "best.pt").write_text("weights of some task")
    if refused == "never" or (driver and refused == "no driver"):
        early.check_amp(options)
        return
    where = options["device"] if refused == "always" else r"cpu \(there is no NVIDIA driver here\)"
    with pytest.raises(UserError, match=rf"amp=fp16 needs a CUDA device and this run is on {where}; use amp=True"):
        early.check_amp(options)


@pytest.mark.parametrize("line", ["predict model=yolov12n.pt source=a.jpg", "export model=yolov12n.pt"])
def test_what_does_not_train_takes_any_number_format(yolo, monkeypatch, line):
    monkeypatch.setenv("YOLOV12_AMP", "fp16")
    monkeypatch.setattr(early, "DRIVER", ())
    assert cli.main(line.split()) == 0


def test_an_export_leaves_the_address_of_a_data_set_to_ultralytics(yolo):
    assert cli.main(["export", "model=yolov12n.pt", "data=https://example.com/a.zip"]) == 0


# Devices


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """A driver, and as many GPUs as the test says."""
    import torch

    monkeypatch.setattr(early, "DRIVER", (tmp_path,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_gpu_is_refused_without_asking_torch_where_there_is_no_driver(yolo, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(early, "DRIVER", (tmp_path / "nowhere",))
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would fail
    assert cli.main(["train", "data=a.yaml", "device=0"]) == 2
    assert error_of(capsys).startswith("error: device=0 does not exist: torch sees no GPU here: type device=cpu")


def test_a_device_that_does_not_exist_is_refused_first(yolo, capsys, gpus):
    gpus(0)
    assert cli.main(["train", "data=a.yaml", "device=7"]) == 2
    assert error_of(capsys).startswith("error: device=7 does not exist: torch sees no GPU here: type device=cpu")
    assert yolo.calls == []


def test_the_error_names_the_devices_that_exist(gpus):
    gpus(4)
    with pytest.raises(UserError, match=r"device=3,4 does not exist: torch sees 4 here: 0 to 3; type device=0"):
        early.check_device("3,4")


@pytest.mark.parametrize("device", ["3", (0, 1), "cuda:2", "cpu", "auto", -1, None])
def test_a_device_that_exists_or_names_no_gpu_passes(device, gpus):
    gpus(4)
    early.check_device(device)


def test_a_physical_index_among_the_visible_ones_passes(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    early.check_device("6")
    with pytest.raises(UserError):
        early.check_device("5")
