# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints load, or say clearly why not; what we write loads in stock ultralytics."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import classify_transforms
from ultralytics.nn import tasks
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import IterableSimpleNamespace

from tests.unit.model import official_form
from yolov12.errors import UserError
from yolov12.model import download, reading, seal, weights

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
MODELS = [
    "yolo12n.yaml",
    "yolo11n.yaml",
    "yolo11n-seg.yaml",
    "yolo11n-pose.yaml",
    "yolo11n-obb.yaml",
    "yolo11n-cls.yaml",
    "yolov10n.yaml",
]


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path / "cache"))
    weights.install()


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model.float().eval()(PICTURE)
    while isinstance(out, tuple):
        out = out[0]
    return out


def trained(name: str, **changes: object) -> dict:
    """A checkpoint as ultralytics' save_model writes it in the middle of a run."""
    model = YOLO(name).model
    return {
        "epoch": 3,
        "best_fitness": np.float64(0.5),
        "stopper": {"best_fitness": 0.5, "best_epoch": 2},
        "model": None,
        "ema": deepcopy(model).half(),
        "updates": 120,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "scaler": {"scale": 65536.0},
        "train_args": {"task": model.task, "data": "coco8.yaml", "imgsz": 64, "freeze": None, "classes": [0, 1]},
        "train_metrics": {"fitness": np.float32(0.5)},
        "train_results": {"epoch": [1]},
        "version": "8.4.190",
        **changes,
    }


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_of_every_task_load(name: str):
    checkpoint = trained(name)
    torch.save(checkpoint, "last.pt")
    model, loaded = tasks.load_checkpoint("last.pt")
    assert loaded["train_metrics"]["fitness"] == 0.5
    assert loaded["optimizer"]["state"][0]["momentum_buffer"].sum() == 3
    assert model.args["data"] == "coco8.yaml"
    assert torch.equal(output(model), output(checkpoint["ema"]))


def test_a_fused_checkpoint_loads():
    model = YOLO("yolo12n.yaml").model.fuse(verbose=False)
    torch.save({"model": model}, "fused.pt")
    assert torch.equal(output(tasks.load_checkpoint("fused.pt")[0]), output(model))


def test_a_checkpoint_with_its_criterion_loads():
    model = YOLO("yolo12n.yaml").model
    model.args = IterableSimpleNamespace(**vars(get_cfg()))
    model.criterion = model.init_criterion()
    torch.save({"model": model}, "last.pt")
    assert type(weights.torch_safe_load("last.pt")[0]["model"].criterion).__name__ == "v8DetectionLoss"


def test_a_classification_checkpoint_with_its_transforms_loads():
    model = YOLO("yolo11n-cls.yaml").model
    model.transforms = classify_transforms(64)
    torch.save({"model": model}, "cls.pt")
    loaded = weights.torch_safe_load("cls.pt")[0]["model"].transforms
    assert [type(step).__name__ for step in loaded.transforms] == ["Resize", "CenterCrop", "ToTensor", "Normalize"]


def test_a_model_saved_without_a_dict_around_it_loads():
    torch.save(YOLO("yolo12n.yaml").model, "model.pt")
    assert isinstance(weights.torch_safe_load("model.pt")[0]["model"], tasks.DetectionModel)


def test_heads_from_before_version_8_1_keep_their_borrowed_forward():
    model = YOLO("yolov8n-seg.yaml").model
    model.model[-1].detect = tasks.Detect.forward
    torch.save({"model": model}, "old.pt")
    assert weights.torch_safe_load("old.pt")[0]["model"].model[-1].detect is tasks.Detect.forward


def test_yolo_loads_through_us():
    torch.save(trained("yolo12n.yaml"), "last.pt")
    with zipfile.ZipFile("not.pt", "w") as file:
        file.writestr("a/b", b"")
    assert YOLO("last.pt").task == "detect"
    with pytest.raises(UserError, match="not a checkpoint"):
        YOLO("not.pt")


def test_installing_twice_changes_nothing():
    first = tasks.torch_safe_load
    weights.install()
    assert tasks.torch_safe_load is first
    assert first.__wrapped__.__module__ == "ultralytics.nn.tasks"


def test_official_turbo_is_converted_and_said_once(capsys: pytest.CaptureFixture[str]):
    official_form.save(official_form.build("n"), Path("yolov12n.pt"))
    for _ in range(2):
        model, _ = tasks.load_checkpoint("yolov12n.pt")
    assert capsys.readouterr().err.count("yolov12n.pt is official turbo (fork 8.3.63)") == 1
    assert output(model).isfinite().all()


def zip_without_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/readme", "hello")
        file.writestr("archive/version", b"3\n")


def torchscript(path: Path) -> None:
    torch.jit.script(nn.Identity()).save(str(path))


def truncated(path: Path) -> None:
    torch.save({"model": nn.Linear(200, 200)}, path)
    path.write_bytes(path.read_bytes()[:-30_000])


def yolov5(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cmodels.yolo\nModel\n)\x81.")
        file.writestr("archive/version", b"3\n")


def broken_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}(X\x05\x00\x00\x00model")
        file.writestr("archive/version", b"3\n")


BAD = {
    "0 bytes": lambda path: path.touch(),
    "web page": lambda path: path.write_text("\n<!DOCTYPE html><html>login</html>"),
    "zip archives, this file starts with": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "cut off or damaged": truncated,
    "not a checkpoint written by torch.save": zip_without_pickle,
    "is damaged": broken_pickle,
    "TorchScript export": torchscript,
    "YOLOv5 repository": yolov5,
    "only tensors": lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
    "has no model": lambda path: torch.save({"epoch": 3}, path),
    "it holds a list": lambda path: torch.save([1, 2], path),
    "nvidia-modelopt": lambda path: torch.save({"model": nn.Identity(), "modelopt": {"a": 1}}, path),
    "can not be read": lambda path: path.mkdir(),
}


@pytest.mark.parametrize(("message", "write"), BAD.items(), ids=BAD.keys())
def test_a_file_that_is_no_checkpoint_says_what_is_wrong(message: str, write, tmp_path: Path):
    path = tmp_path / "bad.pt"
    write(path)
    with pytest.raises(UserError, match=message) as error:
        reading.read(path, trust=False)
    assert str(path) in str(error.value)


def test_a_class_that_only_a_fork_has_is_named():
    with zipfile.ZipFile("fork.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cultralytics.nn.modules.block\nMyBlock\n)\x81.")
        file.writestr("archive/version", b"3\n")
    with pytest.raises(UserError, match=r"asks for ultralytics\.nn\.modules\.block\.MyBlock"):
        weights.torch_safe_load("fork.pt")


def test_a_missing_package_is_not_installed_for_trusted_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLOV12_TRUST_WEIGHTS", "1")
    with zipfile.ZipFile("fork.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cno_such_package.net\nNet\n)\x81.")
        file.writestr("archive/version", b"3\n")
    with pytest.raises(UserError, match="no_such_package, which is not installed"):
        weights.torch_safe_load("fork.pt")


def test_a_missing_file_is_not_searched_on_the_network():
    for missing in ("no_such.pt", "folder/yolo12n.pt"):
        with pytest.raises(UserError, match="no such file"):
            tasks.load_checkpoint(missing)


def test_what_is_no_pt_file_is_refused():
    Path("model.bin").touch()
    with pytest.raises(UserError, match=r"no \.pt file"):
        tasks.load_checkpoint("model.bin")


def test_an_asset_of_ultralytics_is_fetched_by_our_download(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def fetch(name: str, url: str, *_: object, **__: object) -> Path:
        asked.append((name, url))
        torch.save(trained("yolo11n.yaml"), "fetched.pt")
        return Path("fetched.pt")

    monkeypatch.setattr(download, "fetch", fetch)
    _, path = weights.torch_safe_load("yolo11n.pt")
    assert path == "fetched.pt"
    assert asked == [("yolo11n.pt", "https://github.com/ultralytics/assets/releases/download/v8.4.0/yolo11n.pt")]


def test_offline_says_what_to_fetch_and_where_to_put_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        YOLO("yolo11n.pt")
    assert "fetch https://github.com/ultralytics/assets/releases/download/v8.4.0/yolo11n.pt" in str(error.value)
    assert f"put it at {tmp_path / 'cache' / 'weights' / 'yolo11n.pt'}" in str(error.value)


def test_weights_by_address_obey_offline_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLOV12_OFFLINE", "1")
    with pytest.raises(UserError, match="YOLOV12_OFFLINE=1"):
        tasks.load_checkpoint("https://example.com/a/best.pt")


def test_the_data_set_that_a_checkpoint_names_by_address_is_forgotten(capsys: pytest.CaptureFixture[str]):
    args = {"data": "https://example.com/evil.yaml", "pretrained": ["ul://a/b"], "imgsz": 64, "task": "detect"}
    torch.save(trained("yolo12n.yaml", train_args=args), "last.pt")
    model = YOLO("last.pt")
    assert model.overrides.get("data") is None
    assert model.ckpt["train_args"] == {"imgsz": 64, "task": "detect"}
    assert "names data=https://example.com/evil.yaml" in capsys.readouterr().err


def test_a_net_whose_yaml_has_an_address_is_refused():
    checkpoint = trained("yolo12n.yaml")
    checkpoint["ema"].yaml["backbone"].append([-1, 1, "DetectionModel", ["http://example.com/x.yaml"]])
    torch.save(checkpoint, "last.pt")
    with pytest.raises(UserError, match="has the address"):
        weights.torch_safe_load("last.pt")


def fine_tuned(path: Path, classes: int) -> nn.Module:
    """One step of training as a trainer takes it: a net built from the loaded YAML, the weights moved over, a loss, an update."""
    loaded, _ = tasks.load_checkpoint(path)
    model = tasks.DetectionModel(deepcopy(loaded.yaml), nc=classes, verbose=False)
    model.load(loaded, verbose=False)
    model.args = get_cfg(overrides={"task": "detect", "mode": "train"})
    before = model.model[6].cv1.conv.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    batch = {
        "img": PICTURE.repeat(2, 1, 1, 1),
        "cls": torch.ones(2, 1),
        "bboxes": box.repeat(2, 1),
        "batch_idx": torch.arange(2.0),
    }
    loss, _ = model.train().loss(batch)
    loss.sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.model[6].cv1.conv.weight)
    model.criterion, model.task, model.args = None, "detect", vars(model.args)
    return model.eval()


IN_STOCK = """
import sys, numpy, torch
from ultralytics.nn import tasks
from ultralytics.nn.distill_model import DistillationModel
model, _ = tasks.load_checkpoint(sys.argv[1])
picture = torch.from_numpy(numpy.load("picture.npy"))
with torch.no_grad():
    numpy.save("stock.npy", model(picture)[0].numpy())
again = tasks.DetectionModel(model.yaml, verbose=False)  # as retraining starts
again.load(model, verbose=False)
assert again.state_dict().keys() == model.state_dict().keys()
assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
assert "yolov12.model" not in sys.modules
"""


@pytest.mark.parametrize("size", ["n", "l"])
def test_converted_fine_tuned_and_saved_weights_predict_the_same_in_stock_ultralytics(size: str):
    official_form.save(official_form.build(size), Path("official.pt"))
    model = fine_tuned(Path("official.pt"), classes=3)
    torch.save({"model": deepcopy(model), "train_args": model.args}, "tuned.pt")
    np.save("picture.npy", PICTURE.numpy())
    environment = {**os.environ, "YOLOV12_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IN_STOCK, "tuned.pt"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    difference = np.abs(np.load("stock.npy") - output(model).numpy()).max()
    assert difference < 1e-3, f"max_diff={difference:.2e}"


def test_convert_writes_a_finished_checkpoint_with_its_provenance():
    turbo = official_form.build("n").half()
    official_form.save(turbo, Path("yolov12n.pt"))
    report = weights.convert_file("yolov12n.pt", "out.pt")
    content = torch.load("out.pt", weights_only=False)
    assert content["provenance"]["source"] == "yolov12n.pt"
    assert content["provenance"]["sha256"] == report.source_sha256
    assert content["provenance"]["kind"] == "official turbo"
    assert content["version"] == "8.4.190"
    assert content["train_args"]["epochs"] == 600
    assert "AGPL-3.0" in content["license"]
    assert next(content["model"].parameters()).dtype == torch.float16
    assert [line.split(":")[0] for line in report.lines()] == ["weights", "source", "written"]


def test_what_convert_wrote_needs_no_conversion():
    official_form.save(official_form.build("n"), Path("yolov12n.pt"))
    weights.convert_file("yolov12n.pt", "out.pt")
    report = weights.convert_file("out.pt", "again.pt")
    assert report.conversion is None
    assert "in upstream's form already" in report.lines()[0]


def test_convert_overwrites_nothing():
    torch.save(trained("yolo12n.yaml"), "last.pt")
    before = Path("last.pt").read_bytes()
    with pytest.raises(UserError, match=r"last\.pt exists"):
        weights.convert_file("last.pt", "last.pt")
    assert Path("last.pt").read_bytes() == before


@pytest.mark.parametrize("target", ["out.onnx", "no/such/folder/out.pt"])
def test_convert_names_a_target_that_can_not_be(target: str):
    torch.save(trained("yolo12n.yaml"), "last.pt")
    with pytest.raises(UserError, match="in a folder that exists"):
        weights.convert_file("last.pt", target)


def test_a_checkpoint_of_a_distilling_run_loads():
    student, teacher = (YOLO("yolo12n.yaml").model for _ in range(2))
    student.args = get_cfg(overrides={"imgsz": 64})
    model = DistillationModel(teacher, student).eval()
    model.criterion = None
    torch.save({"model": model}, "last.pt")
    loaded = weights.torch_safe_load("last.pt")[0]["model"]
    assert torch.equal(output(loaded.student_model), output(student))


def unfinished(epoch: int, path: Path) -> None:
    """A sealed checkpoint that says of which epoch it is."""
    torch.save({**trained("yolo12n.yaml"), "epoch": epoch}, path)
    seal.seal(path)


@pytest.fixture
def two_checkpoints() -> tuple[Path, Path]:
    last, previous = Path("last.pt"), Path("last.previous.pt")
    unfinished(2, last)
    unfinished(1, previous)
    return last, previous


def test_a_damaged_last_pt_is_replaced_by_the_one_before_it_which_is_said(
    two_checkpoints: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    last, _ = two_checkpoints
    assert weights.torch_safe_load(last)[0]["epoch"] == 2
    last.write_bytes(last.read_bytes()[:-5000])
    checkpoint, path = weights.torch_safe_load(last)
    assert (checkpoint["epoch"], path) == (1, "last.previous.pt")
    assert "WARNING last.pt is damaged: it is cut off" in capsys.readouterr().err


def test_where_both_are_damaged_both_are_named(two_checkpoints: tuple[Path, Path]) -> None:
    for path in two_checkpoints:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt is damaged: its checksum .* so is last\.previous\.pt: its checksum"):
        weights.torch_safe_load("last.pt")


def test_any_file_with_our_checksum_is_held_against_it_as_readme_and_page_say(repository: Path) -> None:
    unfinished(3, Path("best.pt"))
    assert weights.torch_safe_load("best.pt")[0]["epoch"] == 3
    content = bytearray(Path("best.pt").read_bytes())
    content[len(content) // 2] ^= 1  # amid the weights
    Path("best.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"^best\.pt is damaged: its checksum does not match; fetch it again"):
        weights.torch_safe_load("best.pt")
    page = " ".join((repository / "docs/checkpoints.md").read_text(encoding="utf-8").split())
    assert "A damaged `best.pt` or `epochN.pt` is refused" in page
    readme = " ".join((repository / "README.md").read_text(encoding="utf-8").split())
    assert (
        "a checksum, which is checked when they are loaded; a damaged `last.pt` falls back to the one before" in readme
    )


def test_files_of_other_names_without_a_checksum_are_left_to_their_readers() -> None:
    torch.save({**trained("yolo12n.yaml"), "epoch": 3}, "stock.pt")
    content = bytearray(Path("stock.pt").read_bytes())
    place = content.index(torch.ones(3).numpy().tobytes())  # in the optimizer's state, which no reader looks at
    content[place] ^= 1
    Path("stock.pt").write_bytes(content)
    assert seal.flaw(Path("stock.pt"))
    assert weights.torch_safe_load("stock.pt")[0]["epoch"] == 3
