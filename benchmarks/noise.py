# SPDX-License-Identifier: AGPL-3.0-or-later
"""When the difference of two mean accuracies is none: the rule of the programs that compare them, written down before they measured anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from benchmarks.errors import BenchmarkError

LEAST_SEEDS = 2
"""Fewer have no spread."""
NOISE = 0.01
"""Smallest difference of means that is no noise, whatever the spread over a few seeds happens to be."""


def require_seeds(count: int) -> None:
    """Before anything is trained.

    Raises:
        BenchmarkError: too few.
    """
    if count < LEAST_SEEDS:
        raise BenchmarkError(
            f"seeds={count}: type seeds={LEAST_SEEDS} or more, since one training says nothing of the noise"
        )


def noise_of(maps: Sequence[float]) -> float:
    """How far another mean may be from that of these: two standard errors, at least NOISE."""
    return max(NOISE, 2 * stdev(maps) / math.sqrt(len(maps)))
