# SPDX-License-Identifier: AGPL-3.0-or-later
"""A training's plots are the same whoever draws them, and are there when somebody may look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ultralytics.utils import metrics, plotting
from ultralytics.utils.callbacks import base, platform

from tests.unit.engine.test_plots import Noted
from yolov12.data import synth
from yolov12.engine import plots as module
from yolov12.engine import trainer as of_trainer
from yolov12.engine.run_plots import RunPlots
from yolov12.memory import picture

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("YOLOV12_PLOT_PROCESS", "1")
    monkeypatch.setattr(module, "Plotter", Noted)
    monkeypatch.setattr(module, "why_not", lambda: "")
    label = {"bboxes": np.full((3, 4), 0.5), "cls": np.zeros((3, 1))}
    return SimpleNamespace(
        args=SimpleNamespace(plots=True),
        save_dir=tmp_path,
        csv=tmp_path / "results.csv",
        data={"names": {0: "a"}},
        train_loader=SimpleNamespace(dataset=SimpleNamespace(labels=[label, label])),
        on_plot=lambda *drawn: None,
    )


def begun(trainer: Any) -> tuple[RunPlots, Noted]:
    plots = RunPlots(trainer)
    plots.begin(True)
    assert isinstance(plots._plotter, Noted)
    return plots, plots._plotter


def test_each_plot_is_given_to_the_plotter(trainer: Any, tmp_path: Path) -> None:
    plots, plotter = begun(trainer)
    assert 1 <= plotter.at_once <= module.MOST_AT_ONCE
    own = metrics.plot_pr_curve, metrics.plot_mc_curve, metrics.ConfusionMatrix.plot
    plots.labels()
    with plots.of_metrics():
        matrix = metrics.ConfusionMatrix(names={0: "a"})
        for normalize in (True, False):
            matrix.plot(save_dir=tmp_path, normalize=normalize, on_plot=print)
        metrics.plot_pr_curve(1, 2, 3, tmp_path / "PR.png", {}, on_plot=print)
        metrics.plot_mc_curve(1, 2, tmp_path / "F1.png", {}, ylabel="F1", on_plot=print)
    assert own == (metrics.plot_pr_curve, metrics.plot_mc_curve, metrics.ConfusionMatrix.plot)
    assert not plots.results_are_begun
    plots.results()
    assert plots.results_are_begun
    plots.memory(tmp_path / "memory.png", [], [])
    functions, files, told = zip(*plotter.drawn, strict=True)
    assert functions == (
        "plot_labels",
        "ConfusionMatrix.plot",
        "ConfusionMatrix.plot",
        "plot_pr_curve",
        "plot_mc_curve",
        "plot_results",
        "draw",
    )
    assert len(set(files)) == len(files)
    assert told == (trainer.on_plot, *[print] * 4, trainer.on_plot, None)
    assert plotter.may_be_missing == ["plot_labels"]
    assert plotter.waits == 0
    plots.close()
    plots.close()
    assert (plotter.waits, plotter.closed) == (1, 1)


@pytest.mark.parametrize("reason", ["none wanted", "off", "refused", "no room"])
def test_without_a_plotter_plots_are_drawn_as_before(
    reason: str, trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(at_once: int) -> None:
        raise OSError("no room")

    trainer.args.plots = reason != "none wanted"
    if reason == "off":
        monkeypatch.setenv("YOLOV12_PLOT_PROCESS", "0")
    if reason == "refused":
        monkeypatch.setattr(module, "why_not", lambda: "refused")
    if reason == "no room":
        monkeypatch.setattr(module, "Plotter", full)
    plots, drawn = RunPlots(trainer), []
    plots.begin(trainer.args.plots)
    said = capsys.readouterr().err
    assert (reason in said) == (said != "") == (reason in ("refused", "no room"))
    monkeypatch.setattr(plotting, "plot_labels", lambda *_, **keywords: drawn.append(keywords["save_dir"]))
    monkeypatch.setattr(picture, "draw", lambda *_: drawn.append("memory"))
    own = metrics.plot_pr_curve
    plots.labels()
    plots.wait()
    with plots.of_metrics():
        assert metrics.plot_pr_curve is own
    plots.results()
    assert not plots.results_are_begun
    plots.memory(tmp_path, [], [])
    assert drawn == [tmp_path, "memory"]
    plots.close()


def test_a_run_that_failed_draws_no_more_when_it_has_ended(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may train again, and matplotlib's state is for one thread."""
    drawn = []
    monkeypatch.setenv("YOLOV12_PLOT_PROCESS", "0")
    monkeypatch.setattr(plotting, "plot_labels", lambda *_, **__: (time.sleep(0.2), drawn.append("labels")))
    plots = RunPlots(trainer)
    with pytest.raises(RuntimeError, match="of the run"), plots:
        plots.begin(True)
        plots.labels()
        raise RuntimeError("of the run")
    assert drawn == ["labels"]


def test_who_may_look_at_plots_is_waited_for(trainer: Any) -> None:
    plots, plotter = begun(trainer)
    idle = [*base.default_callbacks["on_val_end"], *platform.callbacks.values()]
    plots.wait_for([print])
    assert plotter.waits == 0  # labels.jpg may be missing in the first epoch
    plots.wait()
    assert plotter.waits == 1
    plots.wait_for(idle)
    assert plotter.waits == 1
    plots.wait_for([*idle, print])
    assert plotter.waits == 2
    trainer.platform = True
    plots.wait_for(idle)
    assert plotter.waits == 3


def test_an_interrupt_while_plots_are_waited_for_keeps_no_rank_from_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its groups: the others would wait for it."""

    def interrupted(failed: bool) -> None:
        raise KeyboardInterrupt

    left: list[bool] = []
    monkeypatch.setattr(of_trainer.world, "leave", left.append)
    monkeypatch.setattr(of_trainer.segments, "grow", lambda device: None)
    run: Any = SimpleNamespace(
        device=None, args=SimpleNamespace(plots=True), world=SimpleNamespace(is_alone=True), _setup_train=lambda: None
    )
    run._run = lambda: None
    run.drawing = RunPlots(run)
    monkeypatch.setattr(run.drawing, "begin", lambda are_wanted: None)
    monkeypatch.setattr(run.drawing, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        of_trainer.YOLOv12Trainer._do_train(run)
    assert left == [True]


TRAIN = """
import json, os, sys
from yolov12 import YOLO
there = {}

def look(trainer):
    there[len(there)] = sorted(os.listdir(trainer.save_dir))

model = YOLO("yolo12n.yaml")
if sys.argv[3] == "looks":
    model.add_callback("on_fit_epoch_end", look)
    model.add_callback("on_train_end", look)
run = dict(project=sys.argv[2], name="run", epochs=2, imgsz=32, batch=4, device="cpu", workers=0, optimizer="SGD", seed=1)
model.train(data=sys.argv[1], **run)
told = sorted((os.path.basename(path), plot["data"]) for t in (model.trainer, model.trainer.validator) for path, plot in t.plots.items())
is_here = sorted({"matplotlib.pyplot", "polars"} & sys.modules.keys())
print(json.dumps({"there": there, "told": told, "is_here": is_here, "left": os.listdir(os.environ["TMPDIR"])}))
"""


def trained(data: Path, folder: Path, process: str, looks: str) -> dict[str, Any]:
    (folder / "tmp").mkdir(parents=True)
    environment = {"PYTHONPATH": str(REPOSITORY), "YOLOV12_PLOT_PROCESS": process, "TMPDIR": str(folder / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(data), str(folder), looks],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Plotting labels to" in done.stdout + done.stderr
    assert "WARNING plots" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_leaves_the_same_plots_and_draws_none_itself(tmp_path: Path) -> None:
    data = synth.write(tmp_path / "data", n_train=4, n_val=2, imgsz=64)
    here, there = (trained(data, tmp_path / name, name, "looks") for name in ("0", "1"))
    assert (here["is_here"], there["is_here"]) == (["matplotlib.pyplot", "polars"], [])
    assert there["left"] == []
    assert here["told"] == there["told"]
    there["there"]["2"].remove(
        "results.png"
    )  # which is there when the best weights are evaluated, and otherwise only after that
    assert here["there"] == there["there"]
    plots = {path.name for path in (tmp_path / "0/run").iterdir() if path.suffix in (".png", ".jpg")}
    assert {"labels.jpg", "results.png", "confusion_matrix.png", "confusion_matrix_normalized.png"} <= plots
    differing = [
        name for name in plots if (tmp_path / "0/run" / name).read_bytes() != (tmp_path / "1/run" / name).read_bytes()
    ]
    assert differing == []
