# SPDX-License-Identifier: AGPL-3.0-or-later
"""A validation's plots are the same whoever draws them, and are there when somebody may look. A training's: test_run_plots.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics.models.yolo.detect.val as upstream_detect
from torch import Tensor
from ultralytics.utils import metrics, plotting
from ultralytics.utils.callbacks import base, platform

from tests.unit.export.lively import lively_model
from yolov12.data import synth
from yolov12.engine import plots as module
from yolov12.engine.plots import Plots

REPOSITORY = Path(__file__).parents[3]


class Noted:
    """Stands in for `Plotter`."""

    def __init__(self, at_once: int = 1) -> None:
        self.at_once, self.drawn, self.waits, self.closed = at_once, [], 0, 0
        self.brief_waits_s: list[float] = []
        self.missing: list[str] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.keywords: list[dict[str, Any]] = []
        self.may_be_missing: list[str] = []

    is_waited_for = True

    def draw(self, plot: Any, on_plot: Any) -> None:
        self.drawn.append((plot.function, plot.file, on_plot))
        self.arguments.append(plot.arguments)
        self.keywords.append(plot.keywords)
        self.may_be_missing += [plot.function] * plot.may_be_missing

    def wait(self) -> None:
        self.waits += 1

    def wait_briefly(self, at_most_s: float) -> list[str]:
        self.brief_waits_s.append(at_most_s)
        return self.missing

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> Plots:
    monkeypatch.setenv("YOLOV12_PLOT_PROCESS", "1")
    monkeypatch.setattr(module, "Plotter", Noted)
    monkeypatch.setattr(module, "why_not", lambda: "")
    begun = Plots()
    begun.begin(True)
    return begun


def noted(plots: Plots) -> Noted:
    assert isinstance(plots._plotter, Noted)
    return plots._plotter


def test_no_tensor_of_the_device_goes_to_the_process_that_draws(plots: Plots, tmp_path: Path) -> None:
    """With visualize=True a confusion matrix has some: unpickling one would begin with CUDA there."""
    plotter = noted(plots)
    matrix = metrics.ConfusionMatrix(names={0: "a"}, save_matches=True)
    matrix.matches = kept = {"TP": [object()]}
    with plots.of_metrics():
        matrix.plot(save_dir=tmp_path, on_plot=print)
    ((given, *_),) = plotter.arguments
    assert given.matches is None
    assert given.matrix is matrix.matrix
    assert matrix.matches is kept


def test_a_plot_that_fails_at_the_end_is_told(plots: Plots, capsys: pytest.CaptureFixture[str]) -> None:
    plotter = noted(plots)
    plotter.wait = lambda: 1 // 0  # type: ignore[method-assign]
    plots.close()
    assert plotter.closed == 1
    assert "WARNING a plot is missing: ZeroDivisionError" in capsys.readouterr().err


def test_a_run_that_failed_waits_for_its_plots_a_few_seconds(plots: Plots, capsys: pytest.CaptureFixture[str]) -> None:
    """Its peers wait for it, and a plot that hangs does so for a minute."""
    plotter = noted(plots)
    plotter.missing = ["labels.jpg", "PR.png (ValueError: no)"]
    with pytest.raises(RuntimeError, match="of the run"), plots:
        raise RuntimeError("of the run")
    assert plotter.brief_waits_s == [5.0]
    assert (plotter.waits, plotter.closed) == (0, 1)
    said = capsys.readouterr().err
    assert said == "WARNING plots: the run ended before these were drawn: labels.jpg, PR.png (ValueError: no)\n"


def test_a_run_that_is_done_waits_for_all_its_plots(plots: Plots, capsys: pytest.CaptureFixture[str]) -> None:
    plotter = noted(plots)
    with plots:
        pass
    assert (plotter.waits, plotter.brief_waits_s, plotter.closed) == (1, [], 1)


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 2), (32, 8)])
def test_as_many_are_drawn_at_once_as_there_are_cores(
    cores: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Plotter", Noted)
    monkeypatch.setattr(module, "why_not", lambda: "")
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setenv("YOLOV12_PLOT_PROCESS", "1")
    plots = Plots()
    plots.begin(True)
    assert noted(plots).at_once == at_once


def test_who_may_look_at_plots_is_waited_for(plots: Plots) -> None:
    plotter = noted(plots)
    idle = [*base.default_callbacks["on_val_end"], *platform.callbacks.values()]
    plots.wait_for(idle)
    assert plotter.waits == 0
    plots.wait_for([*idle, print])
    assert plotter.waits == 1
    plots.wait_for(idle, uploads=True)
    assert plotter.waits == 2


def drawn_of(plots: Plots, labels: dict[str, Any], images: Any) -> Any:
    """What the process that draws is given for a batch."""
    with plots.of_batches():
        upstream_detect.plot_images(labels, images, paths=["a"], fname="a.jpg", names={}, on_plot=print)
    return noted(plots).keywords[-1]


def test_the_pictures_of_a_batch_are_handed_over_as_bytes(plots: Plots) -> None:
    own = upstream_detect.plot_images
    images = torch.rand(20, 3, 8, 8)
    labels = {"cls": torch.zeros(4, 1), "batch_idx": torch.arange(4), "img": images, "im_file": ["a"] * 20}
    given = drawn_of(plots, labels, None)
    assert upstream_detect.plot_images is own
    assert given["labels"].keys() == {"cls", "batch_idx"}
    assert not any(isinstance(value, Tensor) for value in (*given["labels"].values(), given["images"]))
    assert given["images"].dtype == np.uint8
    assert len(given["images"]) == module.PICTURES_SHOWN
    np.testing.assert_array_equal(given["images"], (images[:16].numpy() * 255).astype(np.uint8))
    assert (given["fname"], given["threaded"]) == ("a.jpg", False)
    assert noted(plots).drawn == [("plot_images", "a.jpg", print)]
    assert noted(plots).may_be_missing == ["plot_images"]


@pytest.mark.parametrize("first", [0.0, 1 / 255, 0.5, 200.0])
@pytest.mark.parametrize("half", [False, True])
def test_pictures_handed_over_are_drawn_as_those_of_the_batch(
    first: float, half: bool, plots: Plots, tmp_path: Path
) -> None:
    """A first picture without light looks like one whose numbers end at 1, and one that is brighter than 1 like one whose numbers end at 255."""
    images = torch.rand(5, 3, 64, 64) * (200 if first > 1 else 1)
    images[0] = first
    images = images.half() if half else images
    given = drawn_of(plots, {"cls": torch.zeros(0)}, images.clone())
    for name, shown in (("theirs", images.clone()), ("ours", given["images"])):
        plotting.plot_images({"cls": torch.zeros(0)}, shown, fname=tmp_path / f"{name}.png", threaded=False)
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()


VALIDATE = """
import json, os, sys
from yolov12 import YOLO
model = YOLO(sys.argv[2])
there = []
if sys.argv[4] == "looks":
    model.add_callback("on_val_end", lambda validator: there.extend(sorted(os.listdir(validator.save_dir))))
validators = []
model.add_callback("on_val_start", validators.append)
model.val(data=sys.argv[1], project=sys.argv[3], name="run", imgsz=64, batch=2, device="cpu", plots=True, conf=0.001)
told = sorted(os.path.basename(path) for path in validators[0].plots)
is_here = "matplotlib.pyplot" in sys.modules
print(json.dumps({"there": there, "told": told, "is_here": is_here, "left": os.listdir(os.environ["TMPDIR"])}))
"""


def validated(data: Path, weights: Path, folder: Path, process: str, looks: str) -> dict[str, Any]:
    (folder / "tmp").mkdir(parents=True)
    environment = {"PYTHONPATH": str(REPOSITORY), "YOLOV12_PLOT_PROCESS": process, "TMPDIR": str(folder / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE, str(data), str(weights), str(folder), looks],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_validation_leaves_the_same_plots_and_draws_none_itself(tmp_path: Path) -> None:
    data = synth.write(tmp_path / "data", n_train=2, n_val=4, imgsz=64)
    weights = tmp_path / "weights.pt"
    lively_model(0).save(weights)
    here, there = (validated(data, weights, tmp_path / name, name, "looks") for name in ("0", "1"))
    assert (here["is_here"], there["is_here"]) == (True, False)
    assert there["left"] == []
    assert set(here["told"]) <= set(there["told"])  # what a thread draws may come later
    plots = {path.name for path in (tmp_path / "0/run").iterdir()}
    assert plots == set(there["there"]) >= {"confusion_matrix.png", "val_batch0_labels.jpg", "val_batch1_pred.jpg"}
    differing = [
        name for name in plots if (tmp_path / "0/run" / name).read_bytes() != (tmp_path / "1/run" / name).read_bytes()
    ]
    assert differing == []
