# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests of several programs train on, and what they put back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def photos(tmp_path) -> Path:
    """A data set in BCCD's form: grey pictures with one white square each."""
    folder = tmp_path / "photos"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(4):
            picture = np.full((64, 64, 3), 114, np.uint8)
            picture[16:48, 16:48] = 255
            cv2.imwrite(str(folder / "images" / split / f"{number}.jpg"), picture)
            (folder / "labels" / split / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "bccd.yaml").write_text("train: images/train\nval: images/val\nnames: {0: square}\n")
    return folder


@pytest.fixture
def global_settings():
    """Put back what a side sets for its whole process."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = True
