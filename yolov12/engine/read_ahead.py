# SPDX-License-Identifier: AGPL-3.0-or-later
"""A folder of pictures, decoded by several threads while the GPU answers for those before.

ultralytics decodes the next batch in one thread, and a batch of eight or more in several. A GPU that answers in a millisecond or two waits for
that: a JPEG file takes longer. Here files are decoded a bounded number ahead of their batch, and the thread that gathers a batch letterboxes it too.
Batches, their order, and what is said of files that can not be read are ultralytics'.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.data.loaders import LoadImagesAndVideos
from ultralytics.utils.patches import PIL_FALLBACK_SUFFIXES, imread

from yolov12.seams import Seam

SEAMS = (
    Seam("data/loaders.py", 445, "ultralytics.data.loaders.LoadImagesAndVideos.__next__", "4d7b9391b64d"),
    Seam("data/loaders.py", 440, "ultralytics.data.loaders.LoadImagesAndVideos.__iter__", "ebafec133a67"),
    Seam("data/loaders.py", 435, "ultralytics.data.loaders.LoadImagesAndVideos.close", "1c969c117675"),
)

MOST_THREADS = 8
"""As many as ultralytics takes for a large batch; more would be in the way of the thread that launches kernels."""
FILES_PER_THREAD = 2
"""Decoded ahead, beside the batch that is being gathered."""

Letterbox = Callable[[list[np.ndarray]], Any]


class Pictures(list[np.ndarray]):
    """A batch as it was decoded, with what a network takes of it."""

    launched: Any = None
    """Its work that is in the GPU's queue (ahead.py); None where that waits for its turn."""

    def __init__(self, decoded: list[np.ndarray], letterboxed: Any) -> None:
        super().__init__(decoded)
        self.letterboxed = letterboxed


class ReadAhead(LoadImagesAndVideos):
    """Made by `read_ahead`."""

    letterbox: Letterbox
    threads: int
    launch: Callable[[Pictures], bool] | None = None
    """See ahead.py."""
    _executor: ThreadPoolExecutor | None = None

    def __iter__(self) -> ReadAhead:
        self.close()
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="pictures")
        self._asked: deque[Future[np.ndarray | None]] = deque()
        self._next = iter(self.files)
        super().__iter__()
        return self

    def __next__(self) -> tuple[list[str], list[np.ndarray], list[str]]:
        """The paths, pictures and first words of the next batch, without files that can not be read (data/loaders.py:455)."""
        self.mode = "image"
        paths: list[str] = []
        pictures: list[np.ndarray] = []
        words: list[str] = []
        while len(pictures) < self.bs and self.count < self.nf:
            path = self.files[self.count]
            self.count += 1
            self._append_image(paths, pictures, words, path, self._decoded(), self.count)
        if not pictures:
            self.close()
            raise StopIteration
        return paths, Pictures(pictures, self.letterbox(pictures)), words

    def close(self) -> None:
        """Let go of the threads, also where somebody stops before the end."""
        super().close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def _decoded(self) -> np.ndarray | None:
        """The next file's picture; None if it can not be read."""
        assert self._executor is not None, "closed"
        while len(self._asked) < self.bs + FILES_PER_THREAD * self.threads and (path := next(self._next, None)):
            self._asked.append(self._executor.submit(imread, path, flags=self.cv2_flag))
        return self._asked.popleft().result()


def read_ahead(dataset: Any, letterbox: Letterbox, threads: int | None = None) -> Any:
    """A source of ultralytics that decodes ahead where that is worth it, else as it was.

    Args:
        dataset: any of ultralytics' sources.
        letterbox: prepares the pictures of a batch, in the thread that gathers it.
        threads: to decode with; None: as many as there are CPUs for this process, but for one, up to `MOST_THREADS`.
    """
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)) - 1) if threads is None else threads
    if type(dataset) is not LoadImagesAndVideos or threads < 2 or dataset.ni < 2 or dataset.ni < dataset.nf:
        return dataset
    if any(Path(path).suffix.lower() in PIL_FALLBACK_SUFFIXES for path in dataset.files):
        return dataset  # their decoders are registered at first use, which is no matter for several threads
    ahead = ReadAhead.__new__(ReadAhead)
    ahead.__dict__.update(vars(dataset), letterbox=letterbox, threads=threads)
    return ahead
