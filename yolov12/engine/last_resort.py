# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a step does before it gives up: smaller images, if the user allowed them (mas_data); said, and noted in the history."""

from __future__ import annotations

from typing import Any

from yolov12.log import say, warn
from yolov12.memory.history import History
from yolov12.memory.smaller_images import SmallerImages


class LastResort:
    """Of one process's steps.

    Args:
        images: None without mas_data: then there is nothing left to try.
        history: where changes of the size are noted.
    """

    def __init__(self, images: SmallerImages | None, history: History) -> None:
        self.images, self.history = images, history

    def of(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as it is computed with."""
        return batch if self.images is None else self.images.of(batch)

    def shape_of(self, batch: dict[str, Any]) -> tuple[int, int, int, int]:
        """(images, channels, height, width) of that."""
        shape = tuple(batch["img"].shape)
        return shape if self.images is None else self.images.shape_of(shape)

    def take(self, batch: dict[str, Any], reason: str) -> bool:
        """Whether the step on this batch, as the loader made it, can be repeated on smaller images."""
        change = self.images.lower(batch) if self.images is not None else None
        if change is None:
            return False
        self.history.note("smaller images", f"{change}, after running out of memory with one image at a time")
        warn(
            f"out of memory with one image at a time ({reason}); the step is repeated on the same data, made smaller (mas_data=1): {change}"
        )
        return True

    def step_done(self, batch: dict[str, Any]) -> None:
        """A step on this batch, as the loader made it, fitted. It counts if it was made smaller; after a calm period the next has full size."""
        if self.images is None:
            return
        self.history.smaller_steps += self.shape_of(batch) != tuple(batch["img"].shape)
        change = self.images.step_done()
        if change is not None:
            self.history.note("smaller images", f"{change}, after a calm period")
            say(f"memory: {change}, after a calm period")

    def advice(self) -> str:
        """For the sentence that ends the run."""
        if self.images is None:
            return "use a smaller imgsz or model, free the device's memory, or set YOLOV12_MAS_DATA=1 to go on with smaller images"
        return (
            f"images of {self.images.least_px} pixels are the smallest that mas_data=1 allows at this imgsz; "
            "use a smaller imgsz or model, or free the device's memory"
        )
