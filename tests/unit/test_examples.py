# SPDX-License-Identifier: AGPL-3.0-or-later
"""The example in examples/ is run as it stands: CPU, small synthetic images, under a minute."""

import importlib.util
import math
import re
import subprocess
import sys

import pytest
import torch
from ultralytics.utils.torch_utils import init_seeds

from yolov12.data import synth


@pytest.fixture(scope="module")
def custom_loop(repository):
    spec = importlib.util.spec_from_file_location("custom_loop", repository / "examples" / "custom_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data_yaml(tmp_path_factory):
    return str(synth.write(tmp_path_factory.mktemp("synth") / "set", n_train=8, n_val=2, imgsz=160))


def test_the_example_is_short_enough_to_read(repository):
    assert len((repository / "examples" / "custom_loop.py").read_text().splitlines()) <= 80


def test_without_a_data_set_it_says_what_to_type(repository):
    done = subprocess.run(
        [sys.executable, repository / "examples" / "custom_loop.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the following arguments are required: data" in done.stderr


def train(custom_loop, *words: object) -> list[float]:
    return custom_loop.train(**vars(custom_loop.options([str(word) for word in words])))


def test_only_the_data_set_must_be_typed_and_the_page_tells_what_the_rest_is(custom_loop, repository):
    assert vars(custom_loop.options(["my.yaml"])) == {
        "data": "my.yaml",
        "model": "yolov12n.yaml",
        "epochs": 3,
        "imgsz": 640,
        "batch": 16,
        "device": "",
        "out": "custom.pt",
    }
    page = (repository / "docs" / "own-loop.md").read_text()
    assert "three epochs of yolov12n in batches of 16 at 640 pixels" in " ".join(page.split())
    (typed,) = re.findall(r"python examples/custom_loop\.py (.*--.*?) *#", page)
    assert custom_loop.options(typed.split()).epochs == 10


def test_two_steps_have_finite_losses_and_leave_weights_that_predict(custom_loop, data_yaml, tmp_path):
    from yolov12 import YOLO

    asked = ("--epochs", 1, "--imgsz", 64, "--batch", 4, "--device", "cpu", "--out", tmp_path / "custom.pt")
    losses = train(custom_loop, data_yaml, *asked)
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    trained = YOLO(tmp_path / "custom.pt")
    assert trained.names == {0: "circle", 1: "square", 2: "triangle"}
    assert len(trained.predict(torch.zeros(1, 3, 64, 64), verbose=False, save=False)) == 1


def test_it_goes_on_from_weights_and_says_no_to_a_device_that_is_not_there(custom_loop, data_yaml, tmp_path):
    from yolov12 import YOLO

    YOLO("yolov12n.yaml").save(tmp_path / "begun.pt")
    begun = YOLO(tmp_path / "begun.pt").model.state_dict()
    asked = ("--model", tmp_path / "begun.pt", "--epochs", 0, "--out", tmp_path / "custom.pt")
    assert train(custom_loop, data_yaml, *asked) == []
    weight = YOLO(tmp_path / "custom.pt").model.state_dict()["model.0.conv.weight"]
    assert torch.equal(weight, begun["model.0.conv.weight"])
    with pytest.raises(ValueError, match="device=99"):
        train(custom_loop, data_yaml, "--device", 99)


def test_the_loss_falls(custom_loop, data_yaml, tmp_path):
    init_seeds(0)  # the weights, the order of the images and their augmentation
    losses = train(custom_loop, data_yaml, "--epochs", 8, "--imgsz", 160, "--batch", 4, "--out", tmp_path / "custom.pt")
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
