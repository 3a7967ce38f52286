# SPDX-License-Identifier: AGPL-3.0-or-later
"""The predictor of the images without torch finds what ultralytics finds. The model is a graph of one constant, so that its output is known."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "docker/deploy"))

from yolov12_deploy import cli, onnx_session
from yolov12_deploy.boxes import overlap, suppress
from yolov12_deploy.draw import colour, draw
from yolov12_deploy.errors import UsageError
from yolov12_deploy.letterbox import fit, letterbox
from yolov12_deploy.model import Detector, Thresholds

SIDE = 64
NAMES = {0: "round", 1: "long"}
PHOTO = next((Path(__file__).resolve().parents[2] / "data/bccd-mini/images/val").iterdir())


def test_a_reader_that_has_left_is_no_traceback(repository):
    code = "import sys; from yolov12_deploy.cli import main; sys.exit(main())"
    read, write = os.pipe()
    os.close(read)
    path = f"{repository}{os.pathsep}{repository / 'docker/deploy'}"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == -signal.SIGPIPE


def test_importing_it_leaves_no_identifier_of_the_machine(tmp_path, repository):
    """ONNX Runtime alone would (the test can fail), and would send events."""
    quiet = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    quiet |= {
        "PYTHONPATH": str(repository / "docker/deploy"),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", "import yolov12_deploy.model"], env=quiet, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def raw_output(count: int, classes: int, seed: int) -> np.ndarray:
    """(4 + classes, count) float32: boxes that overlap, with scores that are all different."""
    random = np.random.default_rng(seed)
    centre = random.uniform(10, SIDE - 10, (2, count))
    size = random.uniform(4, 30, (2, count))
    scores = random.permutation(np.linspace(0.001, 0.999, classes * count)).reshape(classes, count)
    return np.concatenate([centre, size, scores]).astype(np.float32)


def write_model(file: Path, output: np.ndarray, batch: int = 1, channels: int = 3, **metadata: str) -> Path:
    """An ONNX file that takes any picture of SIDE x SIDE and gives `output`."""
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, SIDE, SIDE])
    given_back = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, *output.shape])
    constant = helper.make_tensor("constant", TensorProto.FLOAT, [1, *output.shape], output.ravel())
    nodes = [
        helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "nothing"], ["zero"]),
        helper.make_node("Add", ["constant", "zero"], ["output0"]),
    ]
    nothing = helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "constant", [taken], [given_back], [constant, nothing])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    known = {
        "task": "detect",
        "names": str(NAMES),
        "stride": "32",
        "imgsz": f"[{SIDE}, {SIDE}]",
        "batch": "1",
    } | metadata
    helper.set_model_props(model, known)
    onnx.save(model, file)
    return file


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "constant.onnx", raw_output(200, 2, seed=0))


@pytest.fixture
def pictures(tmp_path, repository) -> Path:
    """Two pictures of different proportions."""
    import cv2

    photo = cv2.imread(str(next((repository / "tests/data/bccd-mini/images/val").iterdir())))
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "wide.png"), photo[:200])
    cv2.imwrite(str(folder / "high.png"), photo[:, :150])
    return folder


# The steps, each against ultralytics'


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 96]))
def test_a_picture_is_fitted_to_the_pixel_as_upstream_fits_it(height, width, input_height, input_width):
    from ultralytics.data.augment import LetterBox

    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = LetterBox((input_height, input_width), auto=False)(image=picture)[..., ::-1].transpose(2, 0, 1)
    pixels, _ = letterbox(picture, input_height, input_width)
    assert pixels.shape == (1, 3, input_height, input_width)
    np.testing.assert_array_equal(np.round(pixels[0] * 255).astype(np.uint8), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 2000), st.integers(20, 2000))
def test_boxes_come_back_to_the_picture_as_upstream_brings_them(height, width):
    import torch
    from ultralytics.utils.ops import scale_boxes

    boxes = np.random.default_rng(height).uniform(-10, 700, (20, 4)).astype(np.float32)
    expected = scale_boxes((640, 480), torch.from_numpy(boxes.copy()), (height, width)).numpy()
    found = fit(height, width, 640, 480).to_picture(boxes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("conf", "iou", "max_det"), [(0.25, 0.7, 300), (0.001, 0.45, 300), (0.5, 0.2, 5), (0.9999, 0.7, 300)]
)
def test_suppression_keeps_the_boxes_that_upstream_keeps(seed, conf, iou, max_det):
    import torch
    from ultralytics.utils.nms import non_max_suppression

    output = raw_output(300, 3, seed)
    (expected,) = non_max_suppression(torch.from_numpy(output[None]), conf, iou, max_det=max_det)
    np.testing.assert_allclose(suppress(output, conf, iou, max_det), expected.numpy(), rtol=1e-5, atol=1e-4)


def test_overlap_of_boxes_that_can_be_checked_by_hand():
    others = np.float32([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 0, 0]])
    np.testing.assert_allclose(overlap(np.float32([0, 0, 2, 2]), others), [1, 1 / 7, 0, 0])


# The whole


def test_the_predictor_finds_what_ultralytics_finds_with_the_same_file(model, pictures):
    import cv2
    from ultralytics import YOLO

    source, detector = YOLO(model, task="detect"), Detector(model)
    for file in sorted(pictures.iterdir()):
        (expected,) = source.predict(str(file), imgsz=SIDE, conf=0.3, rect=False, verbose=False, device="cpu")
        found = detector.predict(cv2.imread(str(file)), Thresholds(conf=0.3))
        assert len(found) > 5
        np.testing.assert_allclose(found, expected.boxes.data.numpy(), rtol=1e-4, atol=0.02)


def test_a_model_with_suppression_inside_is_only_cut_at_the_threshold(tmp_path, pictures):
    inside = np.float32([[0, 0, 32, 32, 0.9, 1], [1, 1, 32, 32, 0.8, 1], [0, 0, 9, 9, 0.1, 0]])
    file = write_model(tmp_path / "nms.onnx", inside, end2end="True")
    found = Detector(file).predict(np.zeros((SIDE, SIDE, 3), np.uint8))
    np.testing.assert_allclose(found, inside[:2])


def test_predict_writes_a_line_and_a_picture_for_each_picture(model, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/predict", "runs/predict-2"):
        assert cli.main(["predict", f"model={model}", "--source", str(pictures), "--conf=0.5"]) == 0
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == [
            "high.png",
            "predictions.jsonl",
            "wide.png",
        ]
        assert capsys.readouterr().out.splitlines()[-1] == f"2 pictures, in {folder}"
    lines = [json.loads(line) for line in (tmp_path / "runs/predict/predictions.jsonl").read_text().splitlines()]
    assert [Path(line["picture"]).name for line in lines] == ["high.png", "wide.png"]
    assert set(lines[0]["boxes"][0]) == {"box", "score", "class", "name"}
    assert all(box["score"] > 0.5 and box["name"] == NAMES[box["class"]] for line in lines for box in line["boxes"])


def test_pictures_of_one_name_do_not_overwrite_each_other(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / "two" / folder).mkdir(parents=True)
        shutil.copyfile(PHOTO, tmp_path / "two" / folder / "x.jpg")
    assert cli.main(["predict", f"model={model}", "source=two/*/x.jpg"]) == 0
    assert {file.name for file in (tmp_path / "runs/predict").iterdir()} == {"predictions.jsonl", "x.jpg", "x-2.jpg"}


def test_a_size_that_the_model_can_not_take_is_told_what_it_can(model, monkeypatch):
    session = Detector(model).session

    def fails(*_):
        raise onnx_session.BROKEN.Fail("Concat failed\nand so on")

    monkeypatch.setattr(session, "session", SimpleNamespace(run=fails))
    with pytest.raises(UsageError, match=r"at imgsz=33x64 \(on the CPU: .*\); type a multiple of 32: Concat failed$"):
        session.run(np.zeros((1, 3, 33, 64), np.float32))


def test_a_drawn_picture_is_a_copy_and_neighbouring_classes_differ():
    picture = np.zeros((40, 40, 3), np.uint8)
    drawn = draw(picture, np.float32([[5, 5, 30, 30, 0.9, 0]]), NAMES)
    assert picture.max() == 0
    assert drawn.max() > 0
    assert colour(0) != colour(1)


# Bad input: one sentence and exit code 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "data=my.yaml"], "'train' is not in this image"),
        (["predict"], "predict needs model=: for example model=best.onnx"),
        (["predict", "modle=a.onnx"], "'modle=a.onnx' is not understood; predict knows model=, source="),
        (["predict", "model=a.onnx", "conf=high"], "conf=high: type a number"),
        (["predict", "model=a.onnx", "conf=2"], "conf=2: type a number from 0 to 1"),
        (["predict", "model=a.onnx", "iou=nan"], "iou=nan: type a number from 0 to 1"),
        (["predict", "model=a.onnx", "max_det=-1"], "max_det=-1: type a number of 1 or more"),
        (["predict", f"model={__file__}", f"source={PHOTO}", "device=0"], "device=0: type device=auto or device=cpu"),
        (
            ["predict", "model=a.onnx", "source=nowhere/"],
            f"source=nowhere/: there is no such file or folder (looked for from {Path.cwd()};",
        ),
        (["predict", "model=a.onnx", f"source={Path(__file__).parent}"], ": no picture there (.bmp,"),
        (
            ["predict", "model=nowhere.onnx", f"source={PHOTO}"],
            f"model=nowhere.onnx: there is no such file (looked for from {Path.cwd()};",
        ),
    ],
)
def test_bad_usage_is_one_sentence(words, said, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "best.onnx").write_text("weights")
    with pytest.raises(UsageError, match=r"best.onnx is not an ONNX model"):
        Detector(tmp_path / "best.onnx")
    with pytest.raises(UsageError, match=r"there is no such file"):
        Detector(tmp_path / "nowhere.onnx")


def test_a_model_of_another_task_is_refused(tmp_path):
    file = write_model(tmp_path / "segment.onnx", raw_output(5, 2, 0), task="segment")
    with pytest.raises(UsageError, match="only detect"):
        Detector(file)


def test_a_model_for_several_pictures_at_once_is_refused(tmp_path):
    file = write_model(tmp_path / "batch.onnx", raw_output(5, 2, 0), batch=4)
    with pytest.raises(UsageError, match="takes 4 pictures at once: export it with batch=1"):
        Detector(file)


def test_a_model_for_pictures_of_other_channels_is_refused(tmp_path):
    file = write_model(tmp_path / "grey.onnx", raw_output(5, 2, 0), channels=1)
    with pytest.raises(UsageError, match="takes 1 channels, and pictures have 3 here"):
        Detector(file)


def test_a_full_disk_is_worth_a_retry_and_leaves_no_part_of_a_picture(model, pictures, tmp_path, monkeypatch, capsys):
    def full(path, content):
        with path.open("wb") as part:
            part.write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.main(["predict", f"model={model}", f"source={pictures}", f"out={tmp_path}/out"]) == 75
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/out/")
    assert error.endswith("No space left on device")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


def test_a_model_of_something_else_than_pictures_is_refused(tmp_path):
    words = helper.make_tensor_value_info("words", TensorProto.INT64, [1, 7])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["same"])],
        "words",
        [words],
        [helper.make_tensor_value_info("same", TensorProto.INT64, [1, 7])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "words.onnx"
    )
    with pytest.raises(UsageError, match=r"takes tensor\(int64\) of 2 dimensions, not a batch of pictures"):
        Detector(tmp_path / "words.onnx")


def test_another_size_than_the_exported_one_is_refused(model):
    with pytest.raises(UsageError, match=r"imgsz=320, but the model was exported for 64x64"):
        Detector(model, imgsz=320)


def test_a_broken_picture_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_text("no picture")
    assert cli.main(["predict", f"model={model}", "source=broken.jpg"]) == 2
    assert "broken.jpg is not a picture that can be read" in capsys.readouterr().err


def test_an_output_folder_that_can_not_be_written_is_named(model, pictures, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["predict", f"model={model}", f"source={pictures}", f"out={tmp_path}/file/out"]) == 2
    assert f"out={tmp_path}/file/out can not be written" in capsys.readouterr().err
