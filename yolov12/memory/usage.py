# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the steps of a run needed, kept small however long the run is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LIMIT = 1000
"""Points that are kept for the picture: more than its width shows."""


@dataclass
class Spread:
    """Mean and standard deviation of numbers that are not kept (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, number: float) -> None:
        self.count += 1
        before = number - self.mean
        self.mean += before / self.count
        self._squares += before * (number - self.mean)

    @property
    def std(self) -> float:
        """Of the whole population; 0 for fewer than two numbers."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0


@dataclass(frozen=True)
class Point:
    """Some steps in a row, as the picture shows them."""

    step: int
    """The first of them."""
    peak: int
    """Largest bytes in use in any of them."""
    budget: int | None
    """What a step might use then, in bytes, the least of them; None where nothing is planned."""


@dataclass
class Course:
    """Peaks over time. Each point stands for `stride` steps, of which it has the largest: a single high step is never lost."""

    points: list[Point] = field(default_factory=list)
    stride: int = 1

    def add(self, point: Point) -> None:
        """The next step; `point.step` counts up from 0."""
        if self.points and point.step < self.points[-1].step + self.stride:
            self.points[-1] = _joined(self.points[-1], point)
            return
        self.points.append(point)
        if len(self.points) > LIMIT:
            self.stride *= 2
            pairs = zip(self.points[::2], [*self.points[1::2], None], strict=False)
            self.points = [first if second is None else _joined(first, second) for first, second in pairs]


def _joined(first: Point, second: Point) -> Point:
    budgets = [point.budget for point in (first, second) if point.budget is not None]
    return Point(first.step, max(first.peak, second.peak), min(budgets, default=None))
