# SPDX-License-Identifier: AGPL-3.0-or-later
"""The boxes of a data set in flat arrays, so that one picture's are a slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Boxes:
    """Classes and boxes by the index of their picture."""

    def __init__(self, labels: Sequence[dict[str, Any]]) -> None:
        """From ultralytics' labels: `cls` (n, 1) and `bboxes` (n, 4), normalised centre and size."""
        counts = [len(label["cls"]) for label in labels]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
        self._classes = np.concatenate([_flat(label["cls"], 1) for label in labels])[:, 0]
        centred = np.concatenate([_flat(label["bboxes"], 4) for label in labels])
        half = centred[:, 2:] / 2
        self._corners = np.concatenate([centred[:, :2] - half, centred[:, :2] + half], axis=1)

    def of(self, index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(classes (n,), boxes (n, 4) with corners in pixels of a picture of this size), both float32."""
        part = slice(self._starts[index], self._starts[index + 1])
        return self._classes[part], self._corners[part] * np.array([width, height, width, height], np.float32)


def _flat(rows: Any, columns: int) -> np.ndarray:
    return np.asarray(rows, np.float32).reshape(-1, columns)
