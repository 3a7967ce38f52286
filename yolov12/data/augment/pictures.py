# SPDX-License-Identifier: AGPL-3.0-or-later
"""The decoded pictures that a batch is made of, and their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolov12.data.augment.tensors import CHANNELS


@dataclass(frozen=True)
class Source:
    """A decoded picture and its objects: what ultralytics' load_image and labels give."""

    image: Tensor
    """(height, width, 3) uint8, blue, green, red, on the device that renders; the long side has imgsz pixels."""
    classes: np.ndarray
    """(n,) float32."""
    boxes: np.ndarray
    """(n, 4) float32, xyxy in pixels of the image."""


@dataclass(frozen=True)
class Pictures:
    """Those that `Recipe.needed()` names, in its order. Their objects are joined: a mosaic batch has a thousand pictures, and Python is slow."""

    images: Sequence[Tensor]
    """As in `Source`."""
    counts: np.ndarray
    """(pictures,) int64: how many objects each has."""
    classes: np.ndarray
    """(objects,) float32."""
    boxes: np.ndarray
    """(objects, 4) float32, as in `Source`."""

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Pictures:
        """Join the objects of these."""
        return cls(
            images=[source.image for source in sources],
            counts=np.array([len(source.classes) for source in sources], dtype=np.int64),
            classes=np.concatenate([np.empty(0, np.float32), *(source.classes for source in sources)]),
            boxes=np.concatenate([np.empty((0, 4), np.float32), *(source.boxes for source in sources)]),
        )

    def sizes(self, indices: np.ndarray, device: torch.device) -> np.ndarray:
        """(pictures, 2) int64, width and height.

        A wrong picture is refused: it would be read as if it were right, and on a GPU beyond its end.

        Raises:
            ValueError: a picture is not uint8, not (height, width, 3), or on another device; it is told by its index, one of `indices`.
        """
        found = []
        for place, image in enumerate(self.images):
            shape = image.shape
            if image.dtype is not torch.uint8 or len(shape) != 3 or shape[2] != CHANNELS:
                raise ValueError(
                    f"picture {indices[place]}: (height, width, 3) uint8 is expected, not {tuple(shape)} {image.dtype}"
                )
            if image.device != device:
                raise ValueError(f"picture {indices[place]} is on {image.device}, and the batch is made on {device}")
            found.append((shape[1], shape[0]))
        return np.array(found, dtype=np.int64)
