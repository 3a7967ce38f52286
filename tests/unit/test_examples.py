# SPDX-License-Identifier: AGPL-3.0-or-later
"""The example in examples/ is run as it stands: CPU, small synthetic images, under a minute."""

import importlib.util
import math
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
    assert len((repository / "examples" / "custom_loop.py").read_text().splitlines()) <= 60


def test_without_a_data_set_it_says_what_to_type(repository):
    done = subprocess.run(
        [sys.executable, repository / "examples" / "custom_loop.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "type python examples/custom_loop.py my.yaml\n")


def test_two_steps_have_finite_losses_and_leave_weights_that_predict(custom_loop, data_yaml, tmp_path):
    from yolov12 import YOLO

    losses = custom_loop.train(data_yaml, epochs=1, imgsz=64, batch=4, out=str(tmp_path / "custom.pt"))
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    trained = YOLO(tmp_path / "custom.pt")
    assert trained.names == {0: "circle", 1: "square", 2: "triangle"}
    assert len(trained.predict(torch.zeros(1, 3, 64, 64), verbose=False, save=False)) == 1


def test_the_loss_falls(custom_loop, data_yaml, tmp_path):
    init_seeds(0)  # the weights, the order of the images and their augmentation
    losses = custom_loop.train(data_yaml, epochs=8, imgsz=160, batch=4, out=str(tmp_path / "custom.pt"))
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
