# SPDX-License-Identifier: AGPL-3.0-or-later
"""What several GPU tests are given."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from yolov12 import YOLO


@pytest.fixture
def model(weights: Path) -> Iterator[YOLO]:
    """Of the fixture `weights` of the test's module; what its predictor held on the GPU is given back."""
    made = YOLO(weights)
    yield made
    made.predictor = None
    gc.collect()
    torch.cuda.empty_cache()
