# SPDX-License-Identifier: AGPL-3.0-or-later
"""When a run's plots are drawn, and when they must be there.

    labels.jpg                           begun before the first epoch, there at its end
    curves and confusion matrices        begun where ultralytics draws them, there when a callback may look for them
    results.png                          begun before the best weights are evaluated, there when `on_train_end` is called
    memory.png                           begun after that, there when `on_train_end` is called

They are drawn by a `Plotter`. Without one labels.jpg is drawn in a thread, and all others where ultralytics draws them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ultralytics.utils.metrics as upstream
from ultralytics.utils import RANK, plotting

from yolov12 import settings
from yolov12.engine.aside import Aside
from yolov12.engine.plotter import Plot, Plotter, why_not
from yolov12.engine.saving import is_read_by
from yolov12.log import say, warn
from yolov12.memory import picture
from yolov12.memory.history import Event
from yolov12.memory.usage import Point
from yolov12.seams import Seam, replaced

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer

SEAMS = (
    # Who calls the functions that draw, with which arguments.
    Seam("utils/metrics.py", 795, "ultralytics.utils.metrics.ap_per_class", "a1f408ef8cd3"),
    Seam(
        "models/yolo/detect/val.py",
        289,
        "ultralytics.models.yolo.detect.val.DetectionValidator.finalize_metrics",
        "43449e379d4e",
    ),
    Seam("engine/trainer.py", 996, "ultralytics.engine.trainer.BaseTrainer.plot_metrics", "046604f9dfb2"),
    Seam("engine/trainer.py", 1000, "ultralytics.engine.trainer.BaseTrainer.on_plot", "24b6fcfc3fb1"),
    Seam("engine/trainer.py", 231, "ultralytics.engine.trainer.BaseTrainer.run_callbacks", "049f54871151"),
)

MOST_AT_ONCE = 8
"""A validation has six plots."""
WAITS_AFTER_FAILURE_S = 5.0
"""A plot takes a second or two. Whoever waits for a run that failed, a peer or a launcher, is not to wait for one that hangs."""


class Plots:
    """Of one run, on its first rank.

    Args:
        trainer: the run, with its arguments.
    """

    def __init__(self, trainer: YOLOv12Trainer) -> None:
        self._trainer = trainer
        self._plotter: Plotter | None = None
        self._aside = Aside()
        self._labels_are_there = False
        self._results_are_begun = False

    def begin(self) -> None:
        """Start the process that draws, where there is something to draw and nothing against it; a line says what that is."""
        if not self._trainer.args.plots or RANK not in {-1, 0} or not settings.current().plot_process:
            return
        reason = why_not()
        if not reason:
            try:
                self._plotter = Plotter(at_once=min(max(len(os.sched_getaffinity(0)) // 2, 1), MOST_AT_ONCE))
            except OSError as error:
                reason = f"no process can be started for them: {error}"
        if reason:
            say(f"plots: drawn by this process ({reason})")

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

    @contextmanager
    def of_validation(self) -> Iterator[None]:
        """Inside the block, what a validator draws of its metrics is begun; nobody waits."""
        if self._plotter is None:
            yield
            return
        with ExitStack() as stack:
            curves = {
                name: self._begun_instead(name, partial(_argument, position=position))
                for name, position in (("plot_pr_curve", 3), ("plot_mc_curve", 2))
            }
            stack.enter_context(replaced(upstream, **curves))
            begin = self._begun_instead("ConfusionMatrix.plot", _matrix_file)

            def plot(matrix: Any, *arguments: Any, **keywords: Any) -> None:
                begin(_without_matches(matrix), *arguments, **keywords)

            stack.enter_context(replaced(upstream.ConfusionMatrix, plot=plot))
            yield

    def _begun_instead(self, function: str, file_of: Callable[..., str]) -> Callable[..., None]:
        def begin(*arguments: Any, on_plot: Any = None, **keywords: Any) -> None:
            assert self._plotter is not None
            file = file_of(*arguments, **keywords)
            self._plotter.draw(Plot(upstream.__name__, function, arguments, keywords, file), on_plot)

        return begin

    def wait_for(self, callbacks: Iterable[Any]) -> None:
        """`wait`, if one of the callbacks that are called now may look for plots. labels.jpg need not be there in the first epoch."""
        if not self._labels_are_there or self._plotter is None or not self._plotter.is_waited_for:
            return
        if is_read_by(callbacks, uploads=bool(getattr(self._trainer, "platform", None))):
            self._plotter.wait()

    def wait(self) -> None:
        """Until all that was begun is there."""
        self._labels_are_there = True
        self._aside.join()
        if self._plotter is not None:
            self._plotter.wait()

    def __enter__(self) -> Plots:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def close(self, failed: bool = False) -> None:
        """However the run ends: finish what was begun, and end the process that draws.

        Args:
            failed: whether an error ends it, or a signal: plots that are not there soon are then given up, and a line says which.
        """
        if self._plotter is None:
            return
        try:
            if not failed:
                self._plotter.wait()
            elif missing := self._plotter.wait_briefly(WAITS_AFTER_FAILURE_S):
                warn(f"plots: the run ended before these were drawn: {', '.join(missing)}")
        except Exception as error:  # noqa: BLE001  # the run's own reason to end must not be lost behind it
            warn(f"a plot is missing: {type(error).__name__}: {error}")
        finally:
            self._plotter.close()
            self._plotter = None


def _argument(*arguments: Any, position: int, **keywords: Any) -> str:
    return str(arguments[position])


def _without_matches(matrix: Any) -> Any:
    """With visualize=True it keeps tensors of the last picture, which `plot` does not look at: the process that draws must not touch CUDA."""
    alone = copy(matrix)
    alone.matches = None
    return alone


def _matrix_file(matrix: Any, normalize: bool = True, save_dir: str | Path = "", **keywords: Any) -> str:
    return str(Path(save_dir) / f"confusion_matrix, {normalize=}")
