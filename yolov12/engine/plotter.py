# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run's plots are drawn by processes of their own, all at once.

matplotlib draws in Python. In a thread of the run's own process it holds the interpreter's lock, for which the next call of torch waits up to 5 ms
each time; at a run's end, one plot would wait for the other. So a process is forked off before a training has a model on its device, threads of
polars or workers, and before a validation has workers: what ran before one in the same process may have begun with CUDA. It imports matplotlib and
forks itself once for each plot. It holds what the run's process held then (the pages are shared), and never touches CUDA: the functions that it
calls take numbers, names and a path.

What it can not do, this process does: it draws itself where the other one is not there, was lost, does not answer, or failed.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn

from ultralytics.utils import LOGGER

from yolov12.log import warn

ANSWERS_WITHIN_S = 60.0
"""A plot takes a second or two. A fork in a process with threads can hold a lock for ever, so nobody waits longer."""
LOOKS_EVERY_S = 0.02
"""How often the process looks for plots that are done, while there are any."""
LOOKS_FOR_RUN_EVERY_S = 5.0
"""How often it looks whether the run is still there, where the kernel does not tell (`_told_of_end`)."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Sent to a whole group of processes they end a run, which still waits for its plots, and then ends this one."""
END = b"end"
LOST = "it was not drawn"


@dataclass(frozen=True)
class Plot:
    """One call: `function` of the module `module`, by the names under which both processes find it."""

    module: str
    function: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    file: str
    """What it writes, or another name for that: plots with the same one are drawn one after the other."""
    takes_on_plot: bool = True
    """Whether it is a function of ultralytics', which are given a function to call with what was drawn."""
    may_be_missing: bool = False
    """Whether a failure is only warned of, as that of one in a thread (aside.py); else it is the run's, as where ultralytics draws."""

    def draw(self, on_plot: Callable[..., None] | None) -> None:
        """Call it in this process."""
        function: Any = sys.modules[self.module]
        for name in self.function.split("."):
            function = getattr(function, name)
        function(*self.arguments, **self.keywords, **({"on_plot": on_plot} if self.takes_on_plot else {}))


@dataclass(frozen=True)
class Drawn:
    """What a plot's process has to say."""

    plots: list[tuple[Any, ...]]
    """Arguments of each call of `on_plot`."""
    messages: list[tuple[int, str]]
    failure: str = ""


def why_not() -> str:
    """Why no process can be forked here for plots; empty where it can."""
    if not hasattr(os, "fork"):
        return "this system has no fork"
    if "polars" in sys.modules:
        return "polars is loaded, whose threads a forked process lacks"  # labels.jpg and results.png use it
    return ""


class Plotter:
    """The process that plots are given to. Nothing here is for several threads.

    Args:
        at_once: how many plots are drawn at the same time.

    Raises:
        OSError: no process can be started, or there is no room for a temporary folder.
    """

    def __init__(self, at_once: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="yolov12-plots-"))
        self._asked: list[tuple[Plot, Callable[..., None] | None]] = []
        self._begun = 0
        """Plots of earlier waits: the number of the first that is asked for now."""
        self._missing: set[int] = set()
        """Numbers that the process has not answered with yet: a wait that was interrupted is taken up again."""
        run = os.getpid()
        try:
            self._pipe, there = Pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 of a process with threads
                self._process = os.fork()
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        if self._process == 0:
            _serve(there, self._pipe, self._folder, run, at_once)
        there.close()
        with contextlib.suppress(OSError):  # it does so itself, and may have been first
            os.setpgid(self._process, self._process)

    @property
    def is_waited_for(self) -> bool:
        """Whether plots were asked for since the last `wait`."""
        return bool(self._asked)

    def draw(self, plot: Plot, on_plot: Callable[..., None] | None) -> None:
        """Have it drawn, after earlier plots of the same file; `wait` calls `on_plot` for it, as the function itself would.

        It never waits for the other process: what is to be drawn lies in a file, and a pipe has room for the numbers of a run's plots.
        """
        number = self._begun + len(self._asked)
        self._asked.append((plot, on_plot))
        self._missing.add(number)
        if self._process:
            try:
                (self._folder / f"{number}.asked").write_bytes(pickle.dumps(plot))
                self._pipe.send_bytes(str(number).encode())
            except OSError as error:
                self._lose(f"can not be asked ({error})")

    def wait(self) -> None:
        """Until all are on disk.

        Raises:
            Exception: whatever a plot's function raises, when it is called here after it failed there, unless it `may_be_missing`.
        """
        if why := self._await_answers(lambda: ANSWERS_WITHIN_S):
            self._lose(why)
        for plot, on_plot, drawn in self._taken():
            if drawn.failure:
                if drawn.failure == LOST and self._process:  # else it was said for all of them
                    warn(f"plots: what was to draw {plot.file} ended without an answer; this process draws it now")
                _draw_here(plot, on_plot)

    def wait_briefly(self, at_most_s: float) -> list[str]:
        """Until all are on disk, but no longer than that: then it ends the process. Nothing is drawn here, where it might take as long.

        Returns:
            Which plots are missing: the file of each, and why it was not drawn where that is known.
        """
        until_s = time.monotonic() + at_most_s
        if self._await_answers(lambda: max(until_s - time.monotonic(), 0.0)):
            self._end(within_s=0)
        failed = [(plot, drawn.failure) for plot, _, drawn in self._taken() if drawn.failure]
        return [plot.file if failure == LOST else f"{plot.file} ({failure})" for plot, failure in failed]

    def _await_answers(self, within_s: Callable[[], float]) -> str:
        """Take them until none is missing.

        Args:
            within_s: how long the next one may take.

        Returns:
            Why some still are; empty where none is, or the process was lost before.
        """
        while self._missing and self._process:
            try:
                if not self._pipe.poll(limit_s := within_s()):
                    return f"does not answer within {limit_s:g} s"
                self._missing.discard(int(self._pipe.recv_bytes()))
            except (EOFError, OSError) as error:
                return f"is gone ({type(error).__name__})"
        return ""

    def _taken(self) -> Iterator[tuple[Plot, Callable[..., None] | None, Drawn]]:
        """Each plot that was asked for, after its messages and its calls of `on_plot` were repeated here; from now on none is asked for."""
        self._missing.clear()
        asked, self._asked = self._asked, []
        first, self._begun = self._begun, self._begun + len(asked)
        for number, (plot, on_plot) in enumerate(asked, start=first):
            drawn = _answer(self._folder / str(number))
            for level, message in drawn.messages:
                LOGGER.log(level, message)
            if on_plot is not None and not drawn.failure:
                for arguments in drawn.plots:
                    on_plot(*arguments)
            yield plot, on_plot, drawn

    def close(self) -> None:
        """End the process; plots that nobody waited for may be missing. Calling it again does nothing."""
        if self._process:
            with contextlib.suppress(OSError):  # it has ended already
                self._pipe.send_bytes(END)
            self._end(within_s=1.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lose(self, why: str) -> None:
        warn(f"plots: the process that draws them {why}; this one draws them now")
        self._end(within_s=0)

    def _end(self, within_s: float) -> None:
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s:
            if _has_ended(self._process):
                break
            time.sleep(0.005)
        else:
            if not _has_ended(self._process):
                os.killpg(self._process, signal.SIGKILL)  # with those that draw
                with contextlib.suppress(ChildProcessError):  # the kernel has waited, where SIGCHLD is ignored
                    os.waitpid(self._process, 0)
        self._process = 0
        self._pipe.close()


def _has_ended(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG)[0] == process
    except ChildProcessError:  # somebody else has waited for it
        return True


def _answer(file: Path) -> Drawn:
    try:
        drawn: Drawn = pickle.loads(file.read_bytes())  # of our own process, in a folder that only this user reads
        file.unlink()
    except OSError:
        return Drawn([], [], LOST)
    return drawn


def _draw_here(plot: Plot, on_plot: Callable[..., None] | None) -> None:
    try:
        plot.draw(on_plot)
    except Exception as error:
        if not plot.may_be_missing:
            raise
        warn(f"drawing {plot.file} failed: {type(error).__name__}: {error}")


def _serve(pipe: Connection, of_run: Connection, folder: Path, run: int, at_once: int) -> NoReturn:
    """What the forked process does until it is told to end, or the one that forked it has gone.

    Args:
        pipe: its end.
        of_run: the other end, which is not for this process.
    """
    is_told = False
    try:
        gc.freeze()  # what lies about unused of the run's is not to end here: a loader's iterator would send its end to the run's workers
        of_run.close()
        os.setpgid(0, 0)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler looks for its workers
        tempfile.tempdir = str(folder)  # what matplotlib would remove when Python ends goes with the folder
        import matplotlib.pyplot  # noqa: F401  # here once, and not in each of those that draw

        is_told = _hand_out(pipe, _told_of_end(run), folder, run, at_once)
    except (EOFError, OSError):
        pass  # nobody is there any more
    finally:
        if not is_told:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # before it has a group, nobody draws
            os.killpg(os.getpid(), signal.SIGKILL)  # those that still draw, for nobody, and itself
        os._exit(0)  # what the run registered for its own end is not for this process


def _told_of_end(process: int) -> list[int]:
    """A file descriptor that can be read from when that process has ended; none where the kernel has no such thing, or forbids it.

    The pipe does not tell it at once: whatever else the run forked, such as a loader's workers, holds its end too, and may outlive it by seconds.
    """
    try:
        return [os.pidfd_open(process)]
    except (AttributeError, OSError):  # before Linux 5.3, or a container's filter of system calls
        return []


def _hand_out(pipe: Connection, end_of_run: list[int], folder: Path, run: int, at_once: int) -> bool:
    """Whether it was told to end."""
    waiting: list[tuple[int, Plot]] = []
    drawing: dict[int, tuple[int, Plot]] = {}
    while os.getppid() == run:
        ready = connection.wait([pipe, *end_of_run], LOOKS_EVERY_S if drawing else LOOKS_FOR_RUN_EVERY_S)
        if ready and pipe not in ready:
            return False
        if ready:
            request = pipe.recv_bytes()
            if request == END:
                return True
            asked = folder / f"{int(request)}.asked"
            waiting.append((int(request), pickle.loads(asked.read_bytes())))  # of the process that forked this one
            asked.unlink()
        for process in [process for process in drawing if _has_ended(process)]:
            pipe.send_bytes(str(drawing.pop(process)[0]).encode())
        for number, plot in list(waiting):
            files = {other.file for _, other in drawing.values()}
            if len(drawing) < at_once and plot.file not in files:
                waiting.remove((number, plot))
                try:
                    process = os.fork()
                except OSError:  # the run draws what has no answer
                    pipe.send_bytes(str(number).encode())
                    continue
                if process == 0:
                    _draw(plot, folder / str(number))
                drawing[process] = (number, plot)
    return False


def _draw(plot: Plot, answer: Path) -> NoReturn:
    """Draw in this process, which ends then."""
    try:
        collected = _Collector()
        LOGGER.handlers, LOGGER.propagate = [collected], False
        plots: list[tuple[Any, ...]] = []
        failure = ""
        try:
            plot.draw(lambda *arguments: plots.append(arguments))
        except Exception as error:  # noqa: BLE001  # the run calls the function again, and gets it from there
            failure = f"{type(error).__name__}: {error}"
        part = answer.with_suffix(".part")
        part.write_bytes(pickle.dumps(Drawn(plots, collected.messages, failure)))
        part.rename(answer)
    finally:
        os._exit(0)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((record.levelno, record.getMessage()))
