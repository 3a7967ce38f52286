# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints are written by a thread of their own while training goes on, and the one before the last is kept.

Writing, checksum and fsync take as long as they take, which can be longer than an epoch over few pictures. Then the newest state of a file waits, in
place of an older one that was not begun: the run does not stand still, and the memory does not fill with checkpoints.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov12.distributed.pulse import doing
from yolov12.errors import RetryableError
from yolov12.folders import is_full_disk
from yolov12.log import warn
from yolov12.model.seal import flaw, previous_of

_IDLE = "ultralytics.utils.callbacks.base"
"""Where the callbacks are that do nothing."""
_PLATFORM = "ultralytics.utils.callbacks.platform"
"""Where those of Ultralytics' platform are: every trainer has them, and without an account's key they return at once (platform.py:430)."""


class Saver:
    """Writes one file at a time. What a job raises is raised again by the next `offer`, `wait` or `look`."""

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[], None]] = {}
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        """None where nothing is written; the last one looks for more before it ends."""
        self._failure: BaseException | None = None

    def offer(self, name: str, job: Callable[[], None]) -> None:
        """Let `job` write the file of this name when its turn comes, which is that of an older one for the same file that was not begun.

        Raises:
            RetryableError: there was no room for an earlier one; the files before it are intact.
        """
        self.look()
        with self._changing:
            self._waiting[name] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint")
                self._thread.start()

    def wait(self) -> None:
        """Until what was offered is on disk.

        Raises:
            RetryableError: there was no room for it; the files before it are intact.
        """
        thread = self._thread
        if thread is not None:
            thread.join()
        self.look()

    def look(self) -> None:
        """Raise what a job raised that has ended; else return at once. With it a run ends at the next step, and not at the next save.

        Raises:
            RetryableError: as `wait`.
        """
        # Read before it is cleared: the thread may fail in between. Once it has, nobody writes here until the next `offer`.
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @contextmanager
    def done_at_a_failure(self) -> Iterator[None]:
        """Whatever ends the block early, a checkpoint that is being written is finished."""
        try:
            yield
        except BaseException:
            with doing("saving the checkpoint"):
                self.close()
            raise

    def close(self) -> None:
        """`wait` for a run that ends for another reason: a failure is told, not raised."""
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001  # the run's own reason must not be lost behind it
            warn(f"the last checkpoint was not saved: {error}")

    def _run(self) -> None:
        while True:
            with self._changing:
                if not self._waiting:
                    self._thread = None
                    return
                job = self._waiting.pop(next(iter(self._waiting)))
            try:
                job()
            except BaseException as error:  # noqa: BLE001  # of a thread nobody would hear it
                with self._changing:
                    self._failure, self._thread = error, None
                    self._waiting.clear()  # they would fail too
                return
            del job  # a checkpoint, while the next one is written


def somebody_reads(callbacks: Mapping[str, Iterable[Any]], *, uploads: bool) -> bool:
    """Whether a callback may look for an epoch's checkpoints: as ultralytics' for Comet, which uploads best.pt (utils/callbacks/comet.py:571).

    Args:
        callbacks: of a trainer, by event.
        uploads: whether the run is one of Ultralytics' platform's; then its callbacks read, too.
    """
    return is_read_by([*callbacks["on_model_save"], *callbacks["on_fit_epoch_end"]], uploads=uploads)


def is_read_by(callbacks: Iterable[Any], *, uploads: bool) -> bool:
    """Whether one of these callbacks may look for a run's files: any that is not ultralytics' own idle one."""
    idle = {_IDLE} if uploads else {_IDLE, _PLATFORM}
    return any(getattr(call, "__module__", None) not in idle for call in callbacks)


def with_advice(last: Path, write: Callable[..., None], *arguments: Any) -> None:
    """`write(*arguments)`; where there is no room, the error says how the run goes on from `last`."""
    try:
        write(*arguments)
    except RetryableError as error:
        raise RetryableError(f"{error}{f' with resume={last}' if last.exists() else ''}") from error


class Previous:
    """Keeps what is replaced at a path under a second name, as a hard link: it takes room on disk, and no time.

    Args:
        path: of last.pt.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.previous = path, previous_of(path)
        self._is_known_whole = False

    def keep(self) -> None:
        """Call before `path` is replaced. A damaged file, from which a run was not resumed, does not drive out the whole one before it."""
        if not self.path.exists():
            return
        if not self._is_known_whole and flaw(self.path):
            return
        aside = self.path.with_name(f".{self.previous.name}.part")
        aside.unlink(missing_ok=True)
        try:
            _link(self.path, aside)
            os.replace(aside, self.previous)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if not is_full_disk(error):
                raise
            raise RetryableError(
                f"no room to keep {self.path} while it is replaced ({error.strerror}); it is intact; make room and run the same command again"
            ) from error

    def is_replaced(self) -> None:
        """`path` was written by this process: it needs no look next time."""
        self._is_known_whole = True

    def forget(self) -> None:
        """Remove the older file: the run is finished."""
        self.previous.unlink(missing_ok=True)


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # file systems that have no hard links say so in many ways
        shutil.copyfile(path, other)
