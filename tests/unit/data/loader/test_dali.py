# SPDX-License-Identifier: AGPL-3.0-or-later
"""NVIDIA DALI's decoder, on the CPU. Skipped where DALI is not installed, as in the development environment; the image can have it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tests.unit.data.loader import zoo
from yolov12.data.loader import decoders

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from yolov12.data.loader.dali import Dali  # imports DALI


def jpeg(height: int, width: int, seed: int) -> bytes:
    return cv2.imencode(".jpg", zoo.smooth(height, width, seed))[1].tobytes()


def test_lists_of_any_length_are_decoded_in_order():
    decoder = Dali(torch.device("cpu"))
    for count in (3, 5, 2):
        files = [jpeg(40 + number, 60, number) for number in range(count)]
        for file, image in zip(files, decoder(files), strict=True):
            expected = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
            found = image.numpy()
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2


def test_it_works_on_after_a_file_that_it_refuses():
    decoder = Dali(torch.device("cpu"))
    files = [jpeg(40, 60, 0), b"\xff\xd8no picture", jpeg(40, 60, 1)]
    images, reasons = decoders.decode(decoder, files)
    assert [image is None for image in images] == [False, True, False]
    assert set(reasons) == {1}
