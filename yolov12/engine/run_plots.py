# SPDX-License-Identifier: AGPL-3.0-or-later
"""When a training's plots are drawn, and when they must be there.

    labels.jpg                           begun before the first epoch, there at its end
    curves and confusion matrices        begun where ultralytics draws them, there when a callback may look for them
    results.png                          begun before the best weights are evaluated, there when `on_train_end` is called
    memory.png                           begun after that, there when `on_train_end` is called

They are drawn by a `Plotter`. Without one labels.jpg is drawn in a thread, and all others where ultralytics draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ultralytics.utils import plotting

from yolov12.engine.aside import Aside
from yolov12.engine.plots import Plots
from yolov12.engine.plotter import Plot
from yolov12.memory import picture
from yolov12.memory.history import Event
from yolov12.memory.usage import Point
from yolov12.seams import Seam

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer

SEAMS = (
    # Who calls the functions that draw, with which arguments.
    Seam("engine/trainer.py", 996, "ultralytics.engine.trainer.BaseTrainer.plot_metrics", "046604f9dfb2"),
    Seam("engine/trainer.py", 1000, "ultralytics.engine.trainer.BaseTrainer.on_plot", "24b6fcfc3fb1"),
    Seam("engine/trainer.py", 231, "ultralytics.engine.trainer.BaseTrainer.run_callbacks", "049f54871151"),
)


class RunPlots(Plots):
    """Of one training, on its first rank.

    Args:
        trainer: the run, with its arguments.
    """

    cores_for_each = 2  # the first epoch begins beside labels.jpg

    def __init__(self, trainer: YOLOv12Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self._aside = Aside()
        self._labels_are_there = False
        self._results_are_begun = False

    def labels(self) -> None:
        """Begin with labels.jpg."""
        t = self._trainer
        labels = t.train_loader.dataset.labels
        boxes, classes = (np.concatenate([label[key] for label in labels], 0) for key in ("bboxes", "cls"))
        arguments, keywords = (boxes, classes.squeeze()), {"names": t.data["names"], "save_dir": t.save_dir}
        file = str(t.save_dir / "labels.jpg")
        if self._plotter is None:
            self._aside.run(f"drawing {file}", lambda: plotting.plot_labels(*arguments, **keywords, on_plot=t.on_plot))
        else:
            plot = Plot(plotting.__name__, "plot_labels", arguments, keywords, file, may_be_missing=True)
            self._plotter.draw(plot, t.on_plot)

    def results(self) -> None:
        """Begin with results.png, for which results.csv must be complete. Nothing to do without a plotter."""
        t = self._trainer
        if self._plotter is not None:
            plot = Plot(plotting.__name__, "plot_results", (), {"file": t.csv}, str(t.csv))
            self._plotter.draw(plot, t.on_plot)
            self._results_are_begun = True

    @property
    def results_are_begun(self) -> bool:
        """Whether `wait` is all that is left to do for results.png."""
        return self._results_are_begun

    def memory(self, path: Path, points: Sequence[Point], events: Sequence[Event]) -> None:
        """Draw memory.png, or begin with it."""
        if self._plotter is None:
            picture.draw(path, points, events)
        else:
            arguments = (path, list(points), list(events))
            self._plotter.draw(Plot(picture.__name__, "draw", arguments, {}, str(path), takes_on_plot=False), None)

    def wait_for(self, callbacks: Iterable[Any], *, uploads: bool = False) -> None:
        """labels.jpg need not be there in the first epoch."""
        if self._labels_are_there:
            super().wait_for(callbacks, uploads=uploads or bool(getattr(self._trainer, "platform", None)))

    def close(self, failed: bool = False) -> None:
        self._aside.join()  # also of a run that failed, which may be followed by another in this process
        super().close(failed)

    def wait(self) -> None:
        self._labels_are_there = True
        self._aside.join()
        super().wait()
