# SPDX-License-Identifier: AGPL-3.0-or-later
"""TorchScript: compared with its source, with suppression inside too, and a failure leaves the old file."""

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import pytest

from tests.unit.export.lively import lively_model
from yolov12.errors import RetryableError
from yolov12.export import gate, request, run, torchscript

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_torchscript_is_compared(model, network, tmp_path, capsys):
    made = model.export(format="torchscript", imgsz=50)  # as ultralytics rounds it
    assert made == str(tmp_path / "best.torchscript")
    assert "parity: torchscript in fp32 against its source on 2 images at 64x64" in capsys.readouterr().err


def test_torchscript_with_suppression_inside_is_judged_by_what_it_leaves(tmp_path, monkeypatch, capsys):
    crowd = lively_model(seed=1, name="yolo11n-obb.yaml")
    crowd.model.pt_path = str(tmp_path / "best.pt")
    asked = {"format": "torchscript", "imgsz": 96, "nms": True}
    crowd.export(**asked, conf=0.3)
    said = capsys.readouterr().err
    assert re.search(r"torchscript in fp32 against its source on 2 images at 96x96: [1-9]\d* of [1-9]\d* boxes", said)
    verify = gate.verify
    monkeypatch.setattr(
        gate, "verify", lambda case: verify(dataclasses.replace(case, nms=request.Suppression(iou=0.3)))
    )
    with pytest.raises(gate.ParityError, match="should have been suppressed"):
        crowd.export(**asked)


def test_a_torchscript_file_that_differs_is_not_written_and_the_old_one_stays(network, tmp_path, monkeypatch):
    def stock(**arguments):
        assert arguments == {"format": "torchscript"}
        with zipfile.ZipFile(Path(network.pt_path).with_suffix(".torchscript"), "w") as file:
            file.writestr("best/extra/config.txt", json.dumps({"args": {"nms": False}}))

    (tmp_path / "best.torchscript").write_text("the old one")
    asked = []

    def differs(case):
        asked.append(case)
        raise gate.ParityError("differs")

    monkeypatch.setattr(gate, "verify", differs)
    with pytest.raises(gate.ParityError):
        run.export(network, stock, {"format": "torchscript", "data": "my.yaml"}, lambda file: 50.0)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]
    assert asked[0].evaluate is not None  # `data=` is the gate's: ultralytics takes none for this format


def test_a_disk_without_room_for_a_torchscript_file_is_told_before_torch_would_end_the_process(
    network, tmp_path, monkeypatch
):
    usage = torchscript.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(torchscript.shutil, "disk_usage", lambda place: usage._replace(free=10 * 2**20))
    with pytest.raises(
        RetryableError, match=r"no room to save .*best\.torchscript: 10 MiB are free and 10 MiB of weights"
    ):
        run.export(network, lambda **arguments: 1 // 0, {"format": "torchscript"}, None)
    assert list(tmp_path.iterdir()) == []
