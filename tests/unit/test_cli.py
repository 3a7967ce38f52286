# SPDX-License-Identifier: AGPL-3.0-or-later
"""The command line with everything behind it replaced: what each verb calls, what it refuses, and with which exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from yolov12 import __version__, cli, compat, early, folders, log, settings, verb_table, verbs
from yolov12.declare import PREFIX
from yolov12.errors import RetryableError, UserError

ROOT = Path(__file__).resolve().parents[2]


class Recorder:
    """Stands for `yolov12.YOLO`: keeps what it was called with."""

    calls: list[tuple[str, dict[str, Any]]]
    task = "detect"
    overrides: dict[str, Any]
    ckpt: dict[str, Any] | None = None
    failure: BaseException | None = None

    def __init__(self, model: str, task: str | None = None) -> None:
        self.calls.append(("YOLO", {"model": model, "task": task}))

    def _call(self, method: str, arguments: dict[str, Any]) -> None:
        self.calls.append((method, arguments))
        if self.failure:
            raise self.failure

    def train(self, **arguments: Any) -> None:
        self._call("train", arguments)

    def val(self, **arguments: Any) -> None:
        self._call("val", arguments)

    def predict(self, **arguments: Any) -> list[SimpleNamespace]:
        self._call("predict", arguments)
        return [SimpleNamespace(path="clip.mp4", save_dir="out")] * 2

    def export(self, **arguments: Any) -> str:
        self._call("export", arguments)
        return "best.onnx"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """An empty folder to stand in, no workspace, no settings, nothing said yet."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(PREFIX):
            del os.environ[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "no-workspace")
    monkeypatch.setattr(log, "_said", set())
    settings._read.cache_clear()
    settings._chosen.cache_clear()
    yield
    os.environ.clear()
    os.environ.update(before)


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


class Report(list):
    """Lines, as our reports hand them out."""

    def lines(self):
        return list(self)


def checked_dataset(recorder):
    def dataset(path, task, single_class=False, reuse_scan=False):
        recorder.calls.append(("check", {"path": path, "task": task}))
        return SimpleNamespace(lines=lambda: ["2 images, 3 boxes"])

    return dataset


def drawn_dataset(recorder):
    def write(out, **sizes):
        recorder.calls.append(("synth", sizes))
        return out / "data.yaml"

    return write


def called(recorder: type[Recorder], method: str) -> dict[str, Any]:
    return next(arguments for name, arguments in recorder.calls if name == method)


def error_of(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1]


# train


ARTICLE = ["train", "--data", "coco.yaml", "--model", "yolov12s.yaml", "--batch", "256", "--device", "auto"]


@pytest.mark.parametrize(
    "line", [ARTICLE, ["train", "data=coco.yaml", "model=yolov12s.yaml", "batch=256", "device=auto"]]
)
def test_train_is_typed_as_in_the_articles_and_as_in_yolo(yolo, tmp_path, line):
    assert cli.main(line) == 0
    assert called(yolo, "YOLO") == {"model": "yolo12s.yaml", "task": None}
    runs = str(tmp_path / "runs" / "detect")
    assert called(yolo, "train") == {"data": "coco.yaml", "batch": 256, "device": "auto", "project": runs}


@pytest.mark.parametrize(
    "line", [["detect", "train", "data=a.yaml"], ["mode=train", "data=a.yaml"], ["data=a.yaml", "mode=train"]]
)
def test_the_verb_is_found_where_yolo_finds_it(yolo, line):
    assert cli.main(line) == 0
    assert called(yolo, "train")["data"] == "a.yaml"


def test_train_checks_the_data_set_first(yolo):
    assert cli.main(["train", "data=a.yaml"]) == 0
    assert [name for name, _ in yolo.calls] == ["YOLO", "check", "train"]
    assert called(yolo, "check") == {"path": "a.yaml", "task": "detect"}


def test_train_has_a_default_model_and_says_so(yolo, capsys):
    assert cli.main(["train", "data=a.yaml"]) == 0
    assert called(yolo, "YOLO")["model"] == "yolo12n.yaml"
    assert "model=yolov12n.yaml (the default" in capsys.readouterr().err


def test_data_synth_is_the_bundled_set(yolo):
    assert cli.main(["train", "data=synth"]) == 0
    assert called(yolo, "train")["data"] == "/bundled/data.yaml"


def test_train_without_data_is_refused(yolo, capsys):
    assert cli.main(["train", "model=yolov12n.yaml"]) == 2
    assert error_of(capsys) == "error: train needs a data set: type data=my.yaml, or data=synth for the bundled one"
    assert yolo.calls == []


def test_resume_with_a_path_loads_that_checkpoint_and_leaves_its_folder_alone(yolo, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK")
    yolo.ckpt = {"epoch": 3, "optimizer": {}}
    assert cli.main(["train", "resume=last.pt"]) == 0
    assert called(yolo, "YOLO")["model"] == "last.pt"
    assert called(yolo, "train") == {"resume": True}


@pytest.mark.parametrize("checkpoint", [None, {"epoch": -1, "optimizer": None}, {"epoch": 3, "optimizer": None}])
def test_what_can_not_be_resumed_does_not_start_a_new_run(yolo, capsys, tmp_path, checkpoint):
    (tmp_path / "last.pt").write_bytes(b"PK")
    yolo.ckpt = checkpoint
    assert cli.main(["train", "resume=last.pt"]) == 2
    assert "last.pt can not be resumed" in error_of(capsys)
    assert [name for name, _ in yolo.calls] == ["YOLO"]


def test_resume_of_a_file_that_is_not_there_is_refused(yolo, capsys):
    assert cli.main(["train", "resume=nowhere.pt"]) == 2
    assert error_of(capsys) == "error: resume=nowhere.pt: there is no such file"


def test_resume_without_a_path_is_refused(yolo, capsys):
    assert cli.main(["train", "resume=True"]) == 2
    assert "resume=runs/detect/train/weights/last.pt" in error_of(capsys)


def test_a_task_that_is_not_the_models_is_refused(yolo, capsys):
    assert cli.main(["segment", "train", "data=a.yaml", "model=yolov12n.pt"]) == 2
    assert error_of(capsys).startswith("error: task=segment, but yolo12n.pt is a model for detect")


# Early refusals


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
    ["train data=nope.yaml", "train data=synth lr0=2", "train data=synth model=nope.pt", "train data=synth device=0"],
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


# Folders


def test_runs_go_to_the_workspace_if_there_is_one(yolo, tmp_path, monkeypatch):
    (tmp_path / "workspace").mkdir()
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "workspace")
    assert cli.main(["train", "data=a.yaml"]) == 0
    assert called(yolo, "train")["project"] == str(tmp_path / "workspace" / "runs" / "detect")


def test_a_workspace_that_can_not_be_written_is_passed_over_aloud(yolo, tmp_path, monkeypatch, capsys):
    (tmp_path / "workspace").touch()  # a file: what root can not write to either
    monkeypatch.setattr(folders, "WORKSPACE", tmp_path / "workspace")
    assert cli.main(["train", "data=a.yaml"]) == 0
    assert called(yolo, "train")["project"] == str(tmp_path / "runs" / "detect")
    assert f"runs go to {tmp_path}/runs ({tmp_path}/workspace: not a folder)" in capsys.readouterr().err


@pytest.mark.parametrize(("project", "folder"), [("mine", "runs/detect/mine"), ("/mine", "/mine")])
def test_a_project_is_taken_as_ultralytics_takes_it(yolo, tmp_path, project, folder):
    assert cli.main(["train", "data=a.yaml", f"project={project}"]) == 0
    assert called(yolo, "train")["project"] == str(tmp_path / folder)


def test_a_save_dir_stands_alone(yolo, tmp_path):
    assert cli.main(["train", "data=a.yaml", f"save_dir={tmp_path}/here"]) == 0
    assert called(yolo, "train") == {"data": "a.yaml", "save_dir": f"{tmp_path}/here"}


@pytest.mark.parametrize("key", ["project", "save_dir"])
@pytest.mark.parametrize("verb", ["train data=a.yaml", "val model=a.pt data=a.yaml", "predict model=a.pt source=a.jpg"])
def test_an_output_folder_that_can_not_be_written_is_refused_before_anything_is_loaded(
    yolo, tmp_path, capsys, key, verb
):
    (tmp_path / "file").touch()
    assert cli.main([*verb.split(), f"{key}={tmp_path}/file/runs"]) == 2
    assert error_of(capsys).startswith(f"error: {key}={tmp_path}/file/runs: can not write to {tmp_path}/file/runs")
    assert yolo.calls == []


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


# val, predict, export


def test_val_goes_back_to_the_data_set_of_the_weights(yolo):
    yolo.overrides = {"data": "trained-on.yaml"}
    assert cli.main(["val", "model=best.pt"]) == 0
    assert called(yolo, "val")["data"] == "trained-on.yaml"


@pytest.mark.parametrize("model", ["yolov12n.yaml", "yolov12n.pt"])
def test_val_of_a_model_without_a_data_set_is_refused_by_the_name_that_was_typed(yolo, capsys, model):
    assert cli.main(["val", f"model={model}"]) == 2
    assert error_of(capsys) == f"error: model={model} does not say what it was trained on: type data=my.yaml"


def test_predict_streams_and_saves_pictures(yolo, tmp_path):
    assert cli.main(["predict", "model=yolov12n.pt", "source=0"]) == 0
    runs = str(tmp_path / "runs" / "detect")
    assert called(yolo, "predict") == {"source": 0, "save": True, "stream": True, "project": runs}


@pytest.mark.parametrize("written", [None, b"", b"\xff\xd8\xff cut"])
def test_a_picture_that_was_not_written_whole_is_no_success(yolo, monkeypatch, capsys, tmp_path, written):
    if written is not None:
        (tmp_path / "a.jpg").write_bytes(written)
    found = SimpleNamespace(path="pictures/a.png", save_dir=str(tmp_path))
    monkeypatch.setattr(yolo, "predict", lambda self, **arguments: [found])
    assert cli.main(["predict", "model=yolov12n.pt", "source=0"]) == 75
    assert (
        error_of(capsys)
        == f"error: {tmp_path}/a.jpg can not be written: make room there and run the same command again"
    )
    assert not (tmp_path / "a.jpg").exists()
    assert cli.main(["predict", "model=yolov12n.pt", "source=0", "save=False"]) == 0


def test_predict_keeps_no_pictures_where_told_so(yolo):
    assert cli.main(["predict", "model=yolov12n.pt", "source=a.jpg", "save=False"]) == 0
    assert called(yolo, "predict")["save"] is False


def test_export_has_a_default_format_and_prints_the_file(yolo, capsys):
    assert cli.main(["export", "model=best.pt"]) == 0
    assert called(yolo, "export") == {"format": "onnx"}
    assert capsys.readouterr().out == "best.onnx\n"


@pytest.mark.parametrize("form", ["engine", "TensorRT", "trt"])
def test_an_engine_without_tensorrt_is_refused_with_the_build_that_has_it(yolo, capsys, monkeypatch, form):
    monkeypatch.setattr(early, "find_spec", lambda name: None)
    assert cli.main(["export", "model=best.pt", f"format={form}"]) == 2
    said = error_of(capsys)
    assert f"format={form} needs TensorRT, which is not installed here." in said
    assert "make build TENSORRT=10 TENSORRT_INDEX=ADDRESS" in said
    assert "make build TENSORRT=rtx" in said


def test_an_export_that_can_not_be_made_is_refused_before_anything_is_loaded(yolo, capsys):
    assert cli.main(["export", "model=best.pt", "format=onnx", "quantize=8"]) == 2
    assert "int8 is calibrated on your pictures: type data=my.yaml" in error_of(capsys)
    assert yolo.calls == []


@pytest.mark.parametrize(
    "line", ["model=best.pt format=aoti", "model=best.pt format=aoti task=detect data=a.yaml --no-verify"]
)
def test_a_package_may_be_typed(yolo, line):
    assert cli.main(["export", *line.split()]) == 0
    assert called(yolo, "export")["format"] == "aoti"


def test_an_argument_that_a_package_can_not_follow_is_refused_before_anything_is_loaded(yolo, capsys):
    assert cli.main(["export", "model=best.pt", "format=aoti", "opset=18"]) == 2
    assert "opset=18 means nothing to format=aoti" in error_of(capsys)
    assert yolo.calls == []


@pytest.mark.parametrize("line", ["val model=a.pt data=a.yaml", "export model=a.pt data=a.yaml"])
def test_the_channels_of_a_data_set_are_looked_at_before_it_is_used(yolo, line):
    assert cli.main(line.split()) == 0
    assert called(yolo, "channels") == {"data": "a.yaml"}


def test_an_export_is_not_verified_where_told_so(yolo):
    assert cli.main(["export", "model=best.pt", "--no-verify"]) == 0
    assert called(yolo, "export") == {"format": "onnx", "verify": False}


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_rtx"])
def test_with_tensorrt_of_either_kind_an_engine_is_exported(yolo, monkeypatch, package):
    monkeypatch.setattr(early, "find_spec", lambda name: name == package or None)
    assert cli.main(["export", "model=best.pt", "format=engine"]) == 0
    assert called(yolo, "export") == {"format": "engine"}


@pytest.mark.parametrize(
    ("line", "missing"),
    [("val", "model="), ("predict source=a.jpg", "model="), ("predict model=a.pt", "source="), ("export", "model=")],
)
def test_a_verb_says_what_it_misses(yolo, capsys, line, missing):
    assert cli.main(line.split()) == 2
    assert f"needs {missing}" in error_of(capsys)


def test_a_torchscript_file_that_was_cut_is_told_by_its_name(yolo, capsys, tmp_path):
    (tmp_path / "cut.torchscript").write_bytes(b"PK\x03\x04 and no end")
    assert cli.main(["predict", "model=cut.torchscript", "source=a.jpg"]) == 2
    assert error_of(capsys) == "error: cut.torchscript is no whole TorchScript file: fetch it again, or export it again"
    assert yolo.calls == []


def test_several_gpus_share_the_files_of_a_source(yolo, monkeypatch):
    called_with = []
    spread = SimpleNamespace(
        places_and_files=lambda options: (["0", "1"], ["a.jpg", "b.jpg"]),
        main=lambda *arguments: called_with.append(arguments[1:]) or 7,
    )
    monkeypatch.setitem(sys.modules, "yolov12.tools.spread", spread)
    assert cli.main(["predict", "model=best.pt", "source=a.jpg"]) == 7
    assert called_with == [("detect", ["a.jpg", "b.jpg"], ["0", "1"])]
    assert [name for name, _ in yolo.calls] == ["YOLO"]


def test_what_one_gpu_predicts_alone_goes_to_the_first(yolo, monkeypatch):
    spread = SimpleNamespace(places_and_files=lambda options: (["2", "3"], []))
    monkeypatch.setitem(sys.modules, "yolov12.tools.spread", spread)
    assert cli.main(["predict", "model=best.pt", "source=0"]) == 0
    assert called(yolo, "predict")["device"] == "2"


def test_an_exported_model_is_told_its_task(yolo):
    assert cli.main(["detect", "predict", "model=best.onnx", "source=a.jpg"]) == 0
    assert called(yolo, "YOLO") == {"model": "best.onnx", "task": "detect"}


# data, convert, demo, bench


def test_data_synth_writes_a_data_set_and_prints_its_path(yolo, capsys):
    assert cli.main(["data", "synth", "out", "n_train=8", "--n-val", "4", "seed=1"]) == 0
    assert called(yolo, "synth") == {"n_train": 8, "n_val": 4, "seed": 1}
    assert capsys.readouterr().out == "out/data.yaml\n"


def test_data_synth_wants_whole_numbers(yolo, capsys):
    assert cli.main(["data", "synth", "out", "n_train=many"]) == 2
    assert error_of(capsys) == "error: n_train=many: type a whole number"


def test_data_check_prints_the_report(yolo, capsys):
    assert cli.main(["data", "check", "my.yaml", "task=segment"]) == 0
    assert called(yolo, "check") == {"path": "my.yaml", "task": "segment"}
    assert capsys.readouterr().out == "2 images, 3 boxes\n"


@pytest.mark.parametrize("line", ["data", "data synth", "data check", "data draw out"])
def test_data_says_what_it_can_do(yolo, capsys, line):
    assert cli.main(line.split()) == 2
    assert "yolov12 data synth FOLDER, or yolov12 data check my.yaml" in error_of(capsys)


def test_convert_prints_what_was_converted(yolo, capsys, tmp_path):
    (tmp_path / "official.pt").touch()
    assert cli.main(["convert", "official.pt", "converted.pt"]) == 0
    assert capsys.readouterr().out == "official.pt -> converted.pt: turbo\nwritten\n"


@pytest.mark.parametrize("line", ["convert", "convert a.pt", "convert missing.pt b.pt"])
def test_convert_wants_two_files(yolo, capsys, line):
    assert cli.main(line.split()) == 2
    assert error_of(capsys).startswith("error: ")


def test_demo_gets_its_options(yolo):
    assert cli.main(["demo", "epochs=1", "device=cpu"]) == 0
    assert called(yolo, "demo") == {"epochs": 1, "device": "cpu"}


def test_the_demo_of_running_out_of_memory_gets_its_options_and_returns_its_exit_code(yolo):
    assert cli.main(["demo", "oom", "epochs=1"]) == 1
    assert called(yolo, "demo oom") == {"epochs": 1}


def test_help_names_the_demo_of_running_out_of_memory(capsys):
    assert cli.main(["demo", "--help"]) == 0
    assert "demo oom" in capsys.readouterr().out


def test_another_word_after_demo_is_refused_with_what_there_is(yolo, capsys):
    assert cli.main(["demo", "oon"]) == 2
    assert "yolov12 demo oom" in error_of(capsys)


def test_demo_refuses_what_it_has_no_use_for(yolo, capsys):
    assert cli.main(["demo", "mosaic=0"]) == 2
    assert "there is no argument 'mosaic'" in error_of(capsys)


def test_bench_runs_the_benchmarks_of_this_folder_and_returns_their_exit_code(tmp_path, capfd):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()  # a package without it would lose to the checkout's own
    (tmp_path / "benchmarks" / "__main__.py").write_text("import sys; print(*sys.argv[1:]); sys.exit(7)")
    assert cli.main(["bench", "run", "bccd", "--repeats", "3"]) == 7
    assert capfd.readouterr().out == "run bccd --repeats 3\n"


def test_bench_step_is_the_benchmarks_own_word_and_sees_files_from_where_it_was_typed(tmp_path, monkeypatch, capfd):
    image, here = tmp_path / "image", tmp_path / "here"
    (image / "benchmarks").mkdir(parents=True)
    (image / "benchmarks" / "__init__.py").touch()
    (image / "benchmarks" / "__main__.py").write_text("import os, sys; print(os.getcwd(), *sys.argv[1:]); sys.exit(7)")
    here.mkdir()
    monkeypatch.setattr(verbs, "REPOSITORY", image)
    monkeypatch.chdir(here)
    assert cli.main(["bench", "step", "data=my.yaml"]) == 7
    assert capfd.readouterr().out == f"{here} step data=my.yaml\n"


@pytest.mark.parametrize("names", [[], ["memory,attention"]])
def test_bench_alone_or_with_names_runs_the_suite_into_the_folder_of_runs(tmp_path, capfd, names):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "__main__.py").write_text("import sys; print(*sys.argv[1:])")
    assert cli.main(["bench", *names]) == 0
    assert capfd.readouterr().out.split() == ["suite", "--records", str(tmp_path / "runs" / "bench"), *names]


@pytest.mark.parametrize("names", [[], ["start"]])
def test_bench_writes_to_the_records_that_are_typed(tmp_path, capfd, names):
    from benchmarks.__main__ import _parser

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "__main__.py").write_text("import sys; print(*sys.argv[1:])")
    assert cli.main(["bench", *names, "--records", "mine"]) == 0
    options = _parser().parse_args(capfd.readouterr().out.split())
    assert (options.verb, options.names, str(options.records)) == ("suite", names, "mine")


def test_bench_without_benchmarks_says_where_they_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(verbs, "REPOSITORY", tmp_path / "nowhere")
    assert cli.main(["bench", "list"]) == 2
    assert "run it in a clone of the repository" in error_of(capsys)


@pytest.mark.parametrize("verb", verb_table.LATER)
def test_a_verb_of_later_says_so(verb, capsys):
    assert cli.main([verb, "model=a.pt"]) == 2
    assert error_of(capsys).startswith(f"error: `yolov12 {verb}` is planned and not in this version ({__version__})")


# env and settings


def test_env_prints_every_setting_with_its_origin(capsys):
    os.environ["YOLOV12_AMP"] = "bf16"
    assert cli.main(["env", "sync_bn=1"]) == 0
    table = capsys.readouterr().out.partition("\n\n")[2]
    lines = [line.partition("(no")[0].split() for line in table.splitlines()]
    assert lines[0] == ["NAME", "VALUE", "ORIGIN"]
    assert ["YOLOV12_AMP", "bf16", "environment"] in lines
    assert ["YOLOV12_SYNC_BN", "1", "command", "line"] in lines
    assert len(lines) == len(settings.DECLARED) + 1


def test_env_says_what_it_runs_on_and_where_it_writes(capsys, tmp_path):
    os.environ["YOLOV12_CACHE_DIR"] = str(tmp_path / "cache")
    assert cli.main(["env"]) == 0
    said = capsys.readouterr()
    facts = dict(line.split(maxsplit=1) for line in said.out.partition("\n\n")[0].splitlines())
    assert facts["python"].startswith(sys.version.split()[0])
    assert facts["torch"][0].isdigit()
    assert facts["runs"].startswith(f"{tmp_path}/runs (")
    assert facts["cache"].startswith(f"{tmp_path}/cache (")
    assert said.err == ""


def test_env_speaks_json(capsys):
    assert cli.main(["env", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {"name": "YOLOV12_DIST_TIMEOUT_S", "value": 180, "origin": "default"} in records


def test_env_prints_the_table_of_the_documentation(capsys):
    assert cli.main(["env", "--markdown"]) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_a_setting_on_the_command_line_is_exported_and_not_passed_on(yolo):
    assert cli.main(["train", "data=a.yaml", "--flash-attn", "0", "YOLOV12_OFFLINE=1"]) == 0
    assert (settings.current().flash_attn, settings.current().offline) == ("0", True)
    assert called(yolo, "train").keys() == {"data", "project"}


def test_amp_is_a_setting_and_goes_on_to_ultralytics(yolo):
    assert cli.main(["train", "data=a.yaml", "amp=bf16"]) == 0
    assert called(yolo, "train")["amp"] == "bf16"
    assert settings.origin("amp") == "command line"


def test_a_wrong_setting_ends_with_2(yolo, capsys):
    assert cli.main(["train", "data=a.yaml", "sync_bn=maybe"]) == 2
    assert error_of(capsys) == "error: sync_bn=maybe: not a value of this setting; type 1 or 0"
    assert yolo.calls == []


def test_a_misspelt_variable_ends_with_2(yolo, capsys):
    os.environ["YOLOV12_CHECKPIONT"] = "0"
    assert cli.main(["train", "data=a.yaml"]) == 2
    assert "did you mean YOLOV12_CHECKPOINT?" in error_of(capsys)


def test_env_still_answers_when_a_variable_is_misspelt(capsys):
    os.environ["YOLOV12_CHECKPIONT"] = "0"
    assert cli.main(["env"]) == 0
    assert "did you mean YOLOV12_CHECKPOINT?" in capsys.readouterr().err


# Mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian data=a.yaml", "there is no verb 'trian'; did you mean train?"),
        ("data=a.yaml train", "'data=a.yaml' comes before a verb: type, for example, yolov12 train data=a.yaml"),
        ("train data=a.yaml epoch=3", "there is no argument 'epoch'; did you mean epochs"),
        ("train data=a.yaml coco", "'coco' is not an argument here; arguments are key=value"),
        ("train data=a.yaml user=root", "user is read before the command line is: set YOLOV12_USER in the environment"),
    ],
)
def test_a_mistyped_line_ends_with_2_and_says_what_was_meant(yolo, capsys, line, message):
    assert cli.main(line.split()) == 2
    assert error_of(capsys).startswith(f"error: {message}")
    assert yolo.calls == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UserError("label 7 in a.txt, but there are 3 classes"), 2),
        (RetryableError("a peer is gone"), 75),
        (OSError(errno.ENOSPC, "No space left on device", "last.pt"), 75),
        (FileNotFoundError("'a.yaml' does not exist"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_failure_has_its_exit_code_and_no_traceback(yolo, capsys, failure, code):
    yolo.failure = failure
    assert cli.main(["train", "data=a.yaml"]) == code
    error_of(capsys)


@pytest.fixture
def last(yolo, tmp_path):
    """An interrupted training whose last.pt this is."""
    yolo.failure = KeyboardInterrupt()
    yolo.trainer = SimpleNamespace(last=tmp_path / "weights" / "last.pt")
    yolo.trainer.last.parent.mkdir()
    return yolo.trainer.last


def test_an_interrupted_training_says_what_is_saved_and_how_to_go_on(yolo, last, capsys, monkeypatch):
    monkeypatch.setattr(verbs, "program", lambda: "yolov12")
    monkeypatch.setattr(verbs.time, "time", lambda: 1.0)  # the file is younger
    last.touch()
    assert cli.main(["train", "data=a.yaml"]) == 130
    assert error_of(capsys) == (
        f"interrupted: {last} holds the finished epochs; go on with yolov12 train resume={last}"
    )


def test_a_training_that_is_interrupted_in_its_first_epoch_says_that_nothing_is_saved(last, capsys):
    assert cli.main(["train", "data=a.yaml"]) == 130
    assert error_of(capsys) == "interrupted: no epoch was finished, so nothing is saved"


def test_the_checkpoint_of_an_earlier_run_in_the_same_folder_is_not_taken_for_this_ones(last, capsys):
    last.touch()
    os.utime(last, (1.0, 1.0))
    assert cli.main(["train", "data=a.yaml"]) == 130
    assert error_of(capsys) == "interrupted: no epoch was finished, so nothing is saved"


def test_a_bug_is_raised(yolo):
    yolo.failure = AttributeError("'AAttn' object has no attribute 'qkv'")
    with pytest.raises(AttributeError):
        cli.main(["train", "data=a.yaml"])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "WORLD_SIZE=2 is set, and neither NODE_RANK"),
        ({"NODE_RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "NODE_RANK=2 and WORLD_SIZE=2 contradict"),
        ({"NODE_RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
    ],
)
def test_a_launcher_that_says_half_or_contradicts_itself_is_refused(yolo, capsys, monkeypatch, said, words):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "data=a.yaml"]) == 2
    assert words in error_of(capsys)
    assert not yolo.calls


def test_among_several_ranks_the_error_names_its_rank(yolo, capsys, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert cli.main(["train"]) == 2
    assert error_of(capsys).startswith("error: [rank 1] train needs a data set")


# Help


@pytest.mark.parametrize("line", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_verb_and_every_setting(line, capsys):
    assert cli.main(line) == 0
    page = capsys.readouterr().out
    for verb in (*verb_table.VERBS, *verb_table.LATER):
        assert f" {verb}" in page
    for item in settings.DECLARED.values():
        assert item.env in page


@pytest.mark.parametrize("line", [["train", "--help"], ["help", "train"], ["train", "data=a.yaml", "-h"]])
def test_a_verb_has_its_own_help(line, capsys):
    assert cli.main(line) == 0
    page = capsys.readouterr().out
    assert page.startswith("yolov12 train: train a model\n")
    assert "  close_mosaic=10          disable mosaic" in page


def test_a_reader_that_has_seen_enough_is_no_failure():
    command = f"set -o pipefail; {sys.executable} -m yolov12.cli --help | true"
    child = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (child.returncode, child.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    child = subprocess.run(
        [sys.executable, "-m", "yolov12.cli", "env", "--json"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (child.returncode, child.stderr) == (cli.NOBODY_READS, "")


def test_a_pipe_that_is_not_the_output_keeps_its_traceback(monkeypatch, capfd):
    def break_another(argv):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(cli, "run", break_another)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        cli.main(["env"])


@pytest.mark.parametrize("name", ["doctor", "verify", "bench", "nccl-test"])
def test_the_help_says_whose_exit_code_1_is_a_verdict(name):
    page = "\n".join(cli.overview())
    assert re.search(rf"^ +1: what .*\b{name}\b.* is not as it should be", page, re.MULTILINE)


def test_the_help_of_data_shows_the_defaults_of_what_it_calls(capsys):
    import inspect

    from yolov12.data import synth

    assert cli.main(["data", "synth", "--help"]) == 0
    page = capsys.readouterr().out
    for name, parameter in inspect.signature(synth.write).parameters.items():
        assert name == "out" or f" {name}={parameter.default}" in page


def test_only_the_overview_and_env_list_the_settings(capsys):
    for verb in verb_table.VERBS:
        assert cli.main([verb, "--help"]) == 0
        assert ("YOLOV12_SYNC_BN" in capsys.readouterr().out) == (verb == "env")


@pytest.mark.parametrize("verb", verb_table.VERBS.values(), ids=lambda verb: verb.name)
def test_the_example_of_a_verb_can_be_read(verb):
    from yolov12.arguments import parse

    if verb.name == "bench":
        return  # its words are the benchmarks' own
    for example in verb.example.split("    |    "):
        parse(example.split()[1:], verb.keys(), verb.max_words)


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"yolov12 {__version__}\n"


@pytest.mark.parametrize("line", [["--help"], ["train", "--help"], ["--version"], ["serve"]])
def test_help_imports_nothing_heavy(line):
    code = f"import sys\nfrom yolov12 import cli\ncli.main({line!r})\n"
    code += (
        "print('HEAVY', {'torch', 'ultralytics', 'pydantic', 'pydantic_settings', 'numpy', 'cv2'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout.splitlines()[-1] == "HEAVY set()"


def test_the_module_runs_as_a_program():
    child = subprocess.run(
        [sys.executable, "-m", "yolov12.cli", "val"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (child.returncode, child.stderr) == (2, "error: val needs model=: for example model=yolov12n.pt\n")
