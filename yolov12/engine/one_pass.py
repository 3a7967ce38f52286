# SPDX-License-Identifier: AGPL-3.0-or-later
"""A loader whose passes end with their last batch: a validation's, which is gone through once.

ultralytics' repeats its batches for ever, since a training goes through them again and again: behind the last one its workers begin with the first
ones, and are killed with those when the loader is thrown away. Where a thread page-locks batches, one that it was just receiving then ends in a
traceback (ConnectionResetError), and until then workers keep cores from whatever follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ultralytics.data.build import InfiniteDataLoader

from yolov12.seams import Seam

SEAMS = (
    Seam("data/build.py", 78, "ultralytics.data.build.InfiniteDataLoader.__len__", "c55d83101f49"),
    Seam("data/build.py", 82, "ultralytics.data.build.InfiniteDataLoader.__iter__", "1d39ce790bc9"),
    Seam("data/build.py", 89, "ultralytics.data.build.InfiniteDataLoader.__del__", "0e7bf18d00a6"),
    Seam("data/build.py", 104, "ultralytics.data.build.InfiniteDataLoader.reset", "5a976da2034e"),
    Seam("data/build.py", 110, "ultralytics.data.build._RepeatSampler", "2582f0c6ead5"),
)


class _Once:
    """In the place of ultralytics' `_RepeatSampler`."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        return iter(self.sampler)


class _OnePass(InfiniteDataLoader):
    """What `once` makes of a loader."""

    def __iter__(self) -> Iterator[Any]:
        self.reset()  # an iterator that has come to its end, or was left before, has no batch for another pass
        yield from super().__iter__()


def once(loader: InfiniteDataLoader) -> None:
    """Have a loader that nobody has gone through yet end with its last batch; it may be gone through again, by new workers.

    `loader.reset()` is due afterwards: its workers, which have nothing left to do, then end at once.
    """
    # A DataLoader refuses another sampler; ultralytics set its own in the same way.
    object.__setattr__(loader, "batch_sampler", _Once(loader.batch_sampler.sampler))
    loader.__class__ = _OnePass
