# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a validation draws is begun where ultralytics draws it, and is there when a callback may look for it, and at the end of the run.

    val_batch0_labels.jpg, val_batch0_pred.jpg, ...     of its first batches
    curves and confusion matrices                       of its metrics

A `Plotter` draws them. Without one they are drawn as by ultralytics: the pictures of batches in threads, the others while everybody waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics.models.yolo.detect.val as upstream_detect
import ultralytics.utils.metrics as upstream
from torch import Tensor
from ultralytics.utils import RANK, plotting

from yolov12 import settings
from yolov12.engine.plotter import Plot, Plotter, why_not
from yolov12.engine.saving import is_read_by
from yolov12.log import say_once, warn
from yolov12.seams import Seam, replaced

SEAMS = (
    # Who calls the functions that draw, with which arguments.
    Seam("utils/metrics.py", 795, "ultralytics.utils.metrics.ap_per_class", "a1f408ef8cd3"),
    Seam(
        "models/yolo/detect/val.py",
        289,
        "ultralytics.models.yolo.detect.val.DetectionValidator.finalize_metrics",
        "43449e379d4e",
    ),
    Seam(
        "models/yolo/detect/val.py",
        435,
        "ultralytics.models.yolo.detect.val.DetectionValidator.plot_val_samples",
        "bd13b6b3c3f2",
    ),
    Seam(
        "models/yolo/detect/val.py",
        450,
        "ultralytics.models.yolo.detect.val.DetectionValidator.plot_predictions",
        "c086de74e503",
    ),
    # Of `plot_images`, which it hides from Python's inspection: tests hold the files against each other.
    Seam("utils/__init__.py", 1185, "ultralytics.utils.threaded", "9a3cd4cfe6bb"),
)

MOST_AT_ONCE = 8
"""A validation has twelve plots, of which six are asked for at its end."""
WAITS_AFTER_FAILURE_S = 5.0
"""A plot takes a second or two. Whoever waits for a run that failed, a peer or a launcher, is not to wait for one that hangs."""
PICTURES_SHOWN = 16
"""Of a batch: `max_subplots` of ultralytics' `plot_images`."""
DRAWN_OF_LABELS = ("cls", "bboxes", "conf", "batch_idx")
"""What it reads of a detector's labels beside the pictures."""


class Plots:
    """Of one run, a validation or a training, on its first rank."""

    cores_for_each = 1
    """Of a plot that is drawn. Most plots of a validation come at its end, when nothing else is left to do."""

    def __init__(self) -> None:
        self._plotter: Plotter | None = None

    def begin(self, are_wanted: bool) -> None:
        """Start the process that draws, where there is something to draw and nothing against it; a line says what that is."""
        if not are_wanted or RANK not in {-1, 0} or not settings.current().plot_process:
            return
        reason = why_not()
        if not reason:
            try:
                cores = len(os.sched_getaffinity(0))
                self._plotter = Plotter(at_once=min(max(cores // self.cores_for_each, 1), MOST_AT_ONCE))
            except OSError as error:
                reason = f"no process can be started for them: {error}"
        if reason:
            say_once(f"plots {reason}", f"plots: drawn by this process ({reason})")

    @contextmanager
    def of_metrics(self) -> Iterator[None]:
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

    @contextmanager
    def of_batches(self) -> Iterator[None]:
        """Inside the block, the pictures of a batch with its boxes are begun, which ultralytics draws in a thread of this process."""
        if self._plotter is None:
            yield
            return
        with replaced(upstream_detect, plot_images=self._begin_pictures):
            yield

    def _begin_pictures(self, labels: dict[str, Any], images: Any = None, **keywords: Any) -> None:
        assert self._plotter is not None
        on_plot = keywords.pop("on_plot", None)
        drawn = {name: _on_cpu(labels[name]) for name in DRAWN_OF_LABELS if name in labels}
        images = labels.get("img", images)
        given = {"labels": drawn, "images": None if images is None else _shown(images), "threaded": False, **keywords}
        file = str(keywords["fname"])
        self._plotter.draw(Plot(plotting.__name__, "plot_images", (), given, file, may_be_missing=True), on_plot)

    def _begun_instead(self, function: str, file_of: Callable[..., str]) -> Callable[..., None]:
        def begin(*arguments: Any, on_plot: Any = None, **keywords: Any) -> None:
            assert self._plotter is not None
            file = file_of(*arguments, **keywords)
            self._plotter.draw(Plot(upstream.__name__, function, arguments, keywords, file), on_plot)

        return begin

    def wait_for(self, callbacks: Iterable[Any], *, uploads: bool = False) -> None:
        """`wait`, if one of the callbacks that are called now may look for plots.

        Args:
            uploads: whether ultralytics' own do.
        """
        if self._plotter is not None and self._plotter.is_waited_for and is_read_by(callbacks, uploads=uploads):
            self.wait()

    def wait(self) -> None:
        """Until all that was begun is there."""
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


def _on_cpu(values: Any) -> Any:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _shown(images: Tensor) -> np.ndarray:
    """The pictures that are drawn of a batch, as `plot_images` turns them into bytes: a quarter of what it is given, so that less is handed over.

    Args:
        images: (n, channels, height, width) from 0 to 1, or to 255.
    """
    shown = images[:PICTURES_SHOWN].float()
    if not len(shown) or shown[0].max() > 1:
        return shown.cpu().numpy()
    scaled = (shown * 255).to(torch.uint8)
    # It would take a first picture without light for one that ends at 1.
    return scaled.cpu().numpy() if scaled[0].max() > 1 else shown.cpu().numpy()
