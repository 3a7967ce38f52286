# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a learning-rate range test says: the smoothed loss, the learning rate to use with the reason, and the files that show it.

The test is that of Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3: the learning rate grows from update to
update, and the loss tells where it is too small to matter and where it is too large.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from yolov12.wholefile import replacing

WIDTH_DECADES = 0.25
"""Standard deviation of the bell that the losses are smoothed with, in powers of ten of the learning rate. It looks both ways, since a mean of the
past would put every turn of the curve at too large a learning rate."""
RECENT = 3
EXPLODED = 4.0
"""A mean of the last losses so many times the lowest such mean ends the test: beyond it there is nothing to learn."""
HIGHEST = 2.0
"""A loss counts as so many times the median of the first `FEWEST` at most: one that explodes would else reach back over the fall before it, in the
smoothed curve, and hide it or not by how far it got."""
LEAST_FALL = 0.05
"""Share by which the smoothed loss must fall, or the test says nothing."""
CLEAR_FALL = 4.0
"""By so many standard errors it must fall, too: the fall is between the highest and the lowest point, which noise alone keeps apart."""
FEWEST = 8
"""Of fewer updates nothing is said."""


@dataclass(frozen=True)
class Suggestion:
    """The learning rate to train with."""

    lr: float
    low: float
    high: float
    """The interval that the two rules span."""
    reason: str


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last loss is no number, or the last few are far above the lowest few."""
    if not math.isfinite(losses[-1]):
        return True
    means = _recent(losses)
    return bool(means) and means[-1] > EXPLODED * min(means)


def _recent(losses: Sequence[float]) -> list[float]:
    """The mean of `RECENT` losses, for each that has so many up to it."""
    return [sum(losses[i : i + RECENT]) / RECENT for i in range(len(losses) - RECENT + 1)]


def smooth(lrs: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The losses, each as a mean of those around it over the logarithm of the learning rate; where one is no number, up to it alone.

    Those that explode count as `HIGHEST` says.
    """
    usable = _usable(losses)
    return (_bells(lrs[:usable]) @ np.minimum(losses[:usable], _highest(losses[:usable]))).tolist()


def _highest(losses: Sequence[float]) -> float:
    """What a loss counts as at most (`HIGHEST`)."""
    return HIGHEST * float(np.median(losses[:FEWEST])) if len(losses) else math.inf


def _usable(losses: Sequence[float]) -> int:
    """How many losses there are before the first that is no number."""
    return next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))


def _bells(lrs: Sequence[float]) -> np.ndarray:
    """(n, n): in row i the weights of all n losses in the smoothed loss i; each row sums to 1."""
    places = np.log10(np.asarray(lrs, dtype=float))
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / WIDTH_DECADES) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> Suggestion | None:
    """The learning rate between two common rules: where the smoothed loss falls fastest, and a tenth of where it is lowest.

    Args:
        lrs: learning rate of each update, rising by a constant factor.
        losses: loss of each update, as it was.

    Returns:
        None where the loss never fell by more than noise.
    """
    smoothed = smooth(lrs, losses)
    if len(smoothed) < FEWEST:
        return None
    usable = losses[: len(smoothed)]
    # What is low after an explosion is no network that learns. One loss alone may be a bad batch.
    exploded = (i + RECENT - 1 for i, mean in enumerate(_recent(usable)) if mean > _highest(usable))
    lowest = min(range(next(exploded, len(usable))), key=smoothed.__getitem__)
    highest = max(range(lowest + 1), key=smoothed.__getitem__)
    least = max(LEAST_FALL * smoothed[highest], CLEAR_FALL * _standard_error(lrs, losses, highest, lowest))
    if smoothed[highest] - smoothed[lowest] < least or lowest - highest < 2:
        return None
    # Over equal steps of log(lr), so the fall in loss is the slope.
    steepest = min(range(highest + 1, lowest), key=lambda i: smoothed[i + 1] - smoothed[i - 1])
    fastest_lr, tenth_lr = lrs[steepest], lrs[lowest] / 10
    low, high = sorted((fastest_lr, tenth_lr))
    return Suggestion(
        lr=float(f"{math.sqrt(low * high):.1e}"),
        low=low,
        high=high,
        reason=f"between where the loss falls fastest ({fastest_lr:.2g}) and a tenth of where it is lowest ({lrs[lowest]:.2g} / 10)",
    )


def _standard_error(lrs: Sequence[float], losses: Sequence[float], highest: int, lowest: int) -> float:
    """Of the difference between two smoothed losses, by how much neighbours differ up to the lower one: beyond it the loss may explode."""
    noise = math.sqrt(float(np.mean(np.diff(losses[: lowest + 1]) ** 2)) / 2) if lowest else 0.0
    bells = _bells(lrs[: _usable(losses)])
    return noise * math.sqrt(float((bells[[highest, lowest]] ** 2).sum()))


def write_csv(path: Path, lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float]) -> None:
    """One row for each update: learning rate, mean loss of an image, smoothed loss."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["update", "lr", "loss", "smoothed_loss"])
        rows.writerows(zip_longest(range(1, len(lrs) + 1), lrs, losses, smoothed, fillvalue=""))


def draw(
    path: Path, lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], found: Suggestion | None
) -> None:
    """Write the picture: losses over a logarithmic axis of learning rates, with the suggestion and its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    # Blue, orange and green as Okabe and Ito have them, which colour-blind people tell apart.
    axes.plot(lrs, losses, color="#999999", linewidth=0.8, label="loss of an update")
    axes.plot(lrs[: len(smoothed)], smoothed, color="#0072B2", label="smoothed")
    if found is not None:
        axes.axvspan(found.low, found.high, color="#009E73", alpha=0.2, linewidth=0, label="interval")
        axes.axvline(found.lr, color="#D55E00", linestyle="--", label=f"suggested: {found.lr:g}")
    if smoothed:
        lowest = min(smoothed)
        top = max(smoothed[: smoothed.index(lowest) + 1])
        # An explosion at the end would press all the rest flat.
        axes.set_ylim(max(lowest - 0.3 * (top - lowest), 0), top + 0.5 * (top - lowest) + 1e-9)
    axes.set(xscale="log", xlabel="learning rate (lr0)", ylabel="loss of an image")
    axes.legend(fontsize="small")
    with replacing(path) as part:
        figure.savefig(part, dpi=100, format="png")
