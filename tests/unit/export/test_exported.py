# SPDX-License-Identifier: AGPL-3.0-or-later
"""A file that was exported before is told in one sentence, with what to type, before anything is loaded."""

import pytest

from yolov12 import cli
from yolov12.errors import UserError
from yolov12.export import exported
from yolov12.log import program


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(model, form=None):
    with pytest.raises(UserError) as refused:
        exported.refuse(model, form)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("best_cpu.pt2", "a package of AOTInductor"),
        ("best_sm_90.pt2", "a package of AOTInductor"),
        ("best.engine", "a TensorRT engine"),
        ("best.torchscript", "a TorchScript file"),
        ("best_int8.onnx", "an ONNX file"),
    ],
)
def test_it_says_what_the_file_is_and_which_weights_to_name(here, name, what):
    (here / name).touch()
    assert refusal(name, "openvino").startswith(
        f"model={name} is {what}, exported already: name the .pt file that it was made from (model=best.pt)"
    )
    (here / "best.pt").touch()
    assert f"type {program()} export model=best.pt format=openvino" in refusal(name, "openvino")


def test_an_onnx_file_can_become_an_engine_and_is_told_so(here):
    (here / "best.onnx").touch()
    assert refusal("best.onnx").endswith(", or type format=engine")
    exported.refuse("best.onnx", "engine")
    exported.refuse("best.onnx", "trt")


def test_an_engine_is_made_again_of_the_onnx_file_beside_it_where_the_weights_are_not(here):
    for name in ("best.engine", "best.onnx"):
        (here / name).touch()
    assert refusal("best.engine", "engine").endswith(
        f"exported already: type {program()} export model=best.onnx format=engine"
    )


def test_a_folder_and_a_picture_are_told_too(here):
    for name in ("best_openvino_model", "my_best_openvino_model"):
        (here / name).mkdir()
    (here / "bus.jpg").touch()
    assert "is a folder, and no weights: name the .pt file that it was made from (model=best.pt)" in refusal(
        "best_openvino_model"
    )
    assert "(model=my_best.pt)" in refusal("my_best_openvino_model")
    assert refusal("bus.jpg") == "model=bus.jpg is no network that can be exported: name a .pt or .yaml file"


@pytest.mark.parametrize("name", ["best.pt", "mine.yaml", "not-here.engine"])
def test_weights_are_left_alone_and_what_is_not_there_is_told_by_others(here, name):
    if name != "not-here.engine":
        (here / name).touch()
    exported.refuse(name, "onnx")


def test_the_command_line_ends_with_2_and_one_line(here, capsys):
    (here / "best_cpu.pt2").touch()
    assert cli.main(["export", "model=best_cpu.pt2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model=best_cpu.pt2 is a package of AOTInductor, exported already: ")


def test_in_python_it_is_the_same_sentence(here):
    from yolov12 import YOLO

    (here / "best.engine").touch()
    with pytest.raises(UserError, match=r"model=best\.engine is a TensorRT engine, exported already"):
        YOLO("best.engine", task="detect").export(format="onnx")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("best_cpu.pt2", "is a package of AOTInductor, exported already"),
        ("best.engine", "is a TensorRT engine, exported already"),
        ("best.onnx", "is an ONNX file, exported already"),
    ],
)
def test_what_was_exported_is_not_trained_which_the_command_line_says_with_what_to_type(here, capsys, name, what):
    (here / name).write_bytes(b"a file")
    assert cli.main(["train", f"model={name}", "data=synth"]) == 2
    said = capsys.readouterr().err
    assert (
        f"error: model={name} {what}, and can not be trained: name the .pt file that it was made from (model=best.pt)\n"
        in said
    )
    (here / "best.pt").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"and can not be trained: type model=best\.pt$"):
        exported.refuse_training(name)


def test_an_exported_folder_is_not_trained_and_weights_and_what_is_not_there_are_told_by_others(here):
    (here / "best_openvino_model").mkdir()
    (here / "best.pt").touch()
    with pytest.raises(UserError, match=r"is a folder, and no weights, and can not be trained: type model=best\.pt"):
        exported.refuse_training("best_openvino_model")
    for name in ("best.pt", "yolov12n.yaml", "missing.onnx"):
        exported.refuse_training(name)
