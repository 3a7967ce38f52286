# SPDX-License-Identifier: AGPL-3.0-or-later
"""memory.png: what the steps of a run needed over time, what they might use, and when something happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolov12.memory.history import Event
from yolov12.memory.usage import Point

# Told apart without colour too, by dashes and by the shape of the marks. The colours are Okabe and Ito's, which colour-blind people tell apart.
BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"
MARKS = {
    "plan changed": (("plan", "split", "smaller images"), "v"),
    "step repeated": (("retry", "update", "validation"), "x"),
}

FAR = 3.0
"""A budget that is so many times what was needed is left out of view, so that the steps fill the picture."""


def draw(path: Path, points: Sequence[Point], events: Sequence[Event]) -> None:
    """Write the picture. matplotlib's own figure, not pyplot's, so that no state of a notebook or script is touched."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = [point.step for point in points]
    axes.plot(
        steps, [point.peak / 2**30 for point in points], color=BLUE, drawstyle="steps-post", label="peak of a step"
    )
    limits = [(point.step, point.budget / 2**30) for point in points if point.budget is not None]
    if limits:
        axes.plot(*zip(*limits, strict=True), color=ORANGE, linestyle="--", drawstyle="steps-post", label="budget")
    highest = max(point.peak for point in points) / 2**30
    top = 1.08 * max(highest, min(max((limit for _, limit in limits), default=0.0), FAR * highest))
    for position, (label, (kinds, mark)) in enumerate(MARKS.items()):
        when = sorted({event.step for event in events if event.kind in kinds})
        if when:
            height = (0.97 - 0.06 * position) * top
            axes.plot(when, [height] * len(when), color=BLACK, linestyle="none", marker=mark, markersize=6, label=label)
            axes.vlines(when, 0, height, color=BLACK, linewidth=0.5, linestyle=":")
    axes.set(xlabel="training step", ylabel="GiB", ylim=(0, top))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=100)
