# SPDX-License-Identifier: AGPL-3.0-or-later
"""The boxes of a data set in flat arrays, so that those of a batch are taken at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from yolov12.data.ragged import rows_of


class Boxes:
    """Classes and boxes by the index of their picture."""

    def __init__(self, labels: Sequence[dict[str, Any]]) -> None:
        """From ultralytics' labels: `cls` (n, 1) and `bboxes` (n, 4), normalised centre and size."""
        self._counts = np.array([len(label["cls"]) for label in labels], np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._classes = np.concatenate([_flat(label["cls"], 1) for label in labels])[:, 0]
        centred = np.concatenate([_flat(label["bboxes"], 4) for label in labels])
        half = centred[:, 2:] / 2
        self._corners = np.concatenate([centred[:, :2] - half, centred[:, :2] + half], axis=1)

    def of(self, indices: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those of some pictures, one after the other: how many each has (int64), classes (n,), and boxes (n, 4) with corners in pixels (float32).

        Args:
            indices: (pictures,) int64.
            sizes: (pictures, 2), each picture's width and height in pixels.
        """
        counts = self._counts[indices]
        rows = rows_of(self._starts[indices], counts)
        edges = np.tile(sizes, 2).astype(np.float32)
        return counts, self._classes[rows], self._corners[rows] * np.repeat(edges, counts, axis=0)


def _flat(rows: Any, columns: int) -> np.ndarray:
    return np.asarray(rows, np.float32).reshape(-1, columns)
