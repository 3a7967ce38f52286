# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each verb calls and what it refuses, with everything behind the command line replaced."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.unit.command_line import called, error_of
from yolov12 import __version__, cli, early, folders, verb_table, verbs
from yolov12.export import request

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("command_line")


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


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("nowhere.pt", "there is no such file in {here}: give the path of an unfinished run's, for example resume="),
        ("runs/detect/train/weights/lats.pt", "; did you mean runs/detect/train/weights/last.pt?"),
        (
            "runs/detect",
            "there is no last.pt in this folder: give the path of an unfinished run's, for example resume=",
        ),
        ("runs/detect/train", "is a folder: type resume=runs/detect/train/weights/last.pt"),
        ("runs/detect/train/weights", "is a folder: type resume=runs/detect/train/weights/last.pt"),
    ],
)
def test_resume_of_a_file_that_is_not_there_is_refused_with_what_to_type(yolo, capsys, tmp_path, typed, says):
    weights = tmp_path / "runs" / "detect" / "train" / "weights"
    weights.mkdir(parents=True)
    (weights / "last.pt").write_bytes(b"PK")
    assert cli.main(["train", f"resume={typed}"]) == 2
    assert says.format(here=tmp_path) in error_of(capsys)


def test_resume_without_a_path_is_refused(yolo, capsys):
    assert cli.main(["train", "resume=True"]) == 2
    assert "resume=runs/detect/train/weights/last.pt" in error_of(capsys)


def test_a_task_that_is_not_the_models_is_refused(yolo, capsys):
    assert cli.main(["segment", "train", "data=a.yaml", "model=yolov12n.pt"]) == 2
    assert error_of(capsys).startswith("error: task=segment, but yolo12n.pt is a model for detect")


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
    assert (
        f"runs go to {tmp_path}/runs ({tmp_path}/workspace can not be written to (not a folder);"
        in capsys.readouterr().err
    )


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


@pytest.mark.parametrize("verb", ["val model=a.pt data=a.yaml", "predict model=a.pt source=a.jpg"])
@pytest.mark.parametrize("batch", ["-1", "0.5"])
def test_only_train_measures_its_batch(yolo, capsys, verb, batch):
    assert cli.main([*verb.split(), f"batch={batch}"]) == 2
    expected = f"error: batch={batch}: {verb.split()[0]} takes a whole number of pictures from 1, for example batch=16"
    assert error_of(capsys) == expected
    assert yolo.calls == []


@pytest.mark.parametrize("verb", ["train data=a.yaml", "val data=a.yaml", "predict source=a.jpg", "export"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "train: images\nval: images\nnames: [a]\n",
            "it is a data set's: type data=mine.yaml, and model=yolov12n.yaml",
        ),
        ("lr0: 0.1\n", "it has no backbone:"),
        ("", "it has no backbone:"),
    ],
)
def test_a_yaml_that_describes_no_network_is_no_model(yolo, capsys, verb, content, words):
    Path("mine.yaml").write_text(content or "# nothing\n")
    assert cli.main([*verb.split(), "model=mine.yaml"]) == 2
    assert error_of(capsys) == f"error: model=mine.yaml describes no network; {words}"
    assert yolo.calls == []


@pytest.mark.parametrize("verb", ["train data=a.yaml", "val data=a.yaml", "predict source=a.jpg", "export"])
def test_a_model_that_is_no_yolo_is_refused_with_what_to_type_in_python(yolo, capsys, verb):
    assert cli.main([*verb.split(), "model=rtdetr-l.yaml"]) == 2
    said = error_of(capsys)
    assert said.startswith("error: model=rtdetr-l.yaml: the command line builds no RT-DETR;")
    assert "RTDETR('rtdetr-l.yaml').train(" in said
    assert yolo.calls == []


def test_weights_say_themselves_what_they_are(yolo):
    assert cli.main(["predict", "model=rtdetr-l.pt", "source=a.jpg"]) == 0
    assert called(yolo, "YOLO")["model"] == "rtdetr-l.pt"


@pytest.mark.parametrize("content", ["backbone: []\nhead: []\n", "nc: [1\n"])
def test_a_yaml_of_a_network_and_a_broken_one_are_read_by_ultralytics(yolo, content):
    Path("mine.yaml").write_text(content)
    assert cli.main(["train", "model=mine.yaml", "data=a.yaml"]) == 0
    assert called(yolo, "YOLO")["model"] == "mine.yaml"


@pytest.mark.parametrize(("source", "code"), [("broken.jpg", 2), ("pictures/", 2), ("share.txt", 0)])
def test_predict_of_what_can_not_be_read_is_no_success(yolo, monkeypatch, capsys, tmp_path, source, code):
    (tmp_path / "pictures").mkdir()
    for name in ("broken.jpg", "share.txt"):
        (tmp_path / name).write_text("no picture")
    monkeypatch.setattr(yolo, "predict", lambda self, **arguments: [])
    assert cli.main(["predict", "model=yolov12n.pt", f"source={source}"]) == code
    if code:
        assert error_of(capsys) == f"error: source={source}: nothing in it could be read as a picture or a video"


@pytest.mark.parametrize("results", [0, 1])
def test_results_are_said_to_be_saved_only_where_there_are_some(yolo, monkeypatch, caplog, tmp_path, results):
    """As ultralytics' generator says it, behind the last result (engine/predictor.py:454)."""

    def predict(self, **arguments):
        yield from [SimpleNamespace(path="clip.mp4", save_dir="out")] * results
        logging.getLogger("ultralytics").warning("Results saved to out")

    monkeypatch.setattr(yolo, "predict", predict)
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    assert cli.main(["predict", "model=yolov12n.pt", "source=a.jpg"]) == (0 if results else 2)
    assert any("Results saved to out" in words for words in caplog.messages) == bool(results)


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
    assert f"outside of an image pip install {request.TENSORRT_RTX} for" in said


def test_the_package_that_builds_engines_outside_of_an_image_is_the_pinned_one_everywhere():
    pinned = yaml.safe_load((ROOT / "env/versions.yaml").read_text())["sources"]["tensorrt-rtx-cu13"]["version"]
    assert f"tensorrt-rtx-cu13=={pinned}" == request.TENSORRT_RTX
    printed = "from yolov12.export.request import TENSORRT_RTX; print(TENSORRT_RTX)"
    assert f"""    pip install "$(python -c '{printed}')"\n""" in (ROOT / "docs/export.md").read_text()


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


def test_an_export_that_is_asked_to_end_ends_as_an_exception(yolo, monkeypatch, capfd):
    """So that its temporary files go."""
    monkeypatch.setattr(yolo, "export", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM), raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "model=yolov12n.yaml"])
    assert ended.value.code == 143
    assert capfd.readouterr().err.endswith("asked to end by SIGTERM\n")


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
