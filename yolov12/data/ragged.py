# SPDX-License-Identifier: AGPL-3.0-or-later
"""Arrays that are joined from parts of different lengths."""

from __future__ import annotations

import numpy as np


def rows_of(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The row numbers of parts, one after the other: starts[0], starts[0] + 1, ..., then those of the next part.

    Args:
        starts: (parts,) int64, the first row of each.
        counts: (parts,) int64, how many rows it has.
    """
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
