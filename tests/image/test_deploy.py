# SPDX-License-Identifier: AGPL-3.0-or-later
"""The image without torch: it runs what the train image exported, finds the same boxes, and keeps the same rules for users."""

import json
from pathlib import Path

import pytest

from tests.image.harness import STRANGER, Image, exists, mount

# What the train image's own ultralytics finds with the same file.
EXPECTED = """
import json
from ultralytics import YOLO
model = YOLO("model.onnx", task="detect")
found = {}
for result in model.predict("images/val", imgsz=96, conf=0.00001, rect=False, verbose=False, device="cpu"):
    found[result.path.rpartition("/")[2]] = result.boxes.data.tolist()
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def deploy() -> Image:
    if not exists("yolov12:deploy"):
        pytest.skip("needs the image yolov12:deploy (make build VARIANT=deploy)")
    return Image("yolov12:deploy")


@pytest.fixture
def exported(image: Image, photo_workspace: Path) -> Path:
    """The workspace with photographs and model.onnx, exported by the train image."""
    options = mount(photo_workspace, *STRANGER)
    export = "from ultralytics import YOLO; import os; os.rename(YOLO('yolov12n.yaml').export(format='onnx', imgsz=96), 'model.onnx')"
    image.run("python", "-c", export, options=options, timeout_s=300).check()
    return photo_workspace


def test_it_finds_the_boxes_that_the_train_image_finds(image: Image, deploy: Image, exported: Path):
    options = mount(exported, *STRANGER)
    expected = json.loads(image.python(EXPECTED, options=options).splitlines()[-1])
    ran = deploy.run("predict", "model=model.onnx", "source=images/val", "conf=0.00001", options=options).check()
    assert ran.out.splitlines()[-1] == "4 pictures, in runs/predict"
    lines = (exported / "runs/predict/predictions.jsonl").read_text().splitlines()
    found = {Path(line["picture"]).name: line["boxes"] for line in map(json.loads, lines)}
    assert found.keys() == expected.keys()
    assert sum(map(len, found.values())) > 0
    for name, boxes in found.items():
        assert len(boxes) == len(expected[name])
        for box, row in zip(boxes, expected[name], strict=True):
            assert box["class"] == int(row[5])
            assert [*box["box"], box["score"]] == pytest.approx(row[:5], abs=0.05)


def test_it_has_no_torch_and_no_compiler(deploy: Image):
    program = "import importlib.util as u; print(*(n for n in ('torch', 'ultralytics', 'pydantic') if u.find_spec(n)))"
    assert deploy.python(program) == ""
    assert deploy.run("bash", "-c", "type -P gcc nvcc || true").out == ""


def test_it_verifies_itself_as_a_stranger(deploy: Image):
    ran = deploy.run("verify", options=STRANGER).check()
    print(ran)  # shown by .ci/run
    assert ran.out.splitlines()[0].startswith("image   yolov12:deploy ")


def test_it_is_smaller_than_a_quarter_of_the_train_image(image: Image, deploy: Image):
    assert int(deploy.inspect("{{.Size}}")) * 4 < int(image.inspect("{{.Size}}"))


def test_its_outputs_belong_to_the_owner_of_the_workspace(deploy: Image, foreign_workspace: Path):
    ran = deploy.run("touch", "made-here", options=mount(foreign_workspace)).check()
    assert (ran.code, (foreign_workspace / "made-here").stat().st_uid) == (0, 1001)


def test_what_it_can_not_do_names_the_image_that_can(deploy: Image):
    ran = deploy.run("train", "data=my.yaml", options=STRANGER)
    assert (ran.code, "yolov12:train" in ran.log) == (2, True)
    assert "Traceback" not in ran.log


def test_a_model_that_is_not_there_is_a_usage_error(deploy: Image):
    ran = deploy.run("predict", "model=best.onnx", "source=/usr/share/pixmaps", options=STRANGER)
    assert (ran.code, "Traceback" in ran.log) == (2, False)
