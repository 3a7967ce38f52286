# SPDX-License-Identifier: AGPL-3.0-or-later
"""Another process draws, several plots at once, and this one draws what the other can not."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  # so that the forked processes have it at once
import numpy as np
import pytest
from ultralytics.utils import LOGGER, metrics

from yolov12.engine import plotter as module
from yolov12.engine.plotter import Plot, Plotter, why_not

HERE = os.getpid()


def note(path: Path, text: str = "", on_plot: Any = None) -> None:
    """A plot that says which process drew it."""
    LOGGER.info(f"drawing {path.name}")
    path.write_text(f"{os.getpid()} {text}")
    if on_plot is not None:
        on_plot(path, {"text": text})


def wait_for(theirs: Path, mine: Path, on_plot: Any = None) -> None:
    """A plot that is done when another one has begun."""
    mine.touch()
    until_s = time.monotonic() + 30
    while not theirs.exists():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def append(path: Path, text: str, on_plot: Any = None) -> None:
    before = path.read_text() if path.exists() else ""
    time.sleep(0.1)
    path.write_text(before + text)


def fail(path: Path, on_plot: Any = None) -> None:
    path.write_text(str(os.getpid()))
    raise ValueError("no such colour")


def hang_elsewhere(path: Path, on_plot: Any = None) -> None:
    if os.getpid() != HERE:
        path.with_suffix(".process").write_text(str(os.getpid()))
        time.sleep(600)
    note(path, on_plot=on_plot)


def plot(function: Any, *arguments: Any, file: str = "", **keywords: Any) -> Plot:
    return Plot(__name__, function.__name__, arguments, keywords, file or str(arguments[0]))


def ended(process: int) -> bool:
    """Whether it has ended soon; nobody need have waited for it."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def plotter() -> Iterator[Plotter]:
    made = Plotter(at_once=2)
    yield made
    made.close()


def test_another_process_draws_and_this_one_is_told(plotter: Plotter, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    for name in ("b", "a"):
        plotter.draw(plot(note, tmp_path / name, text=name), lambda *drawn: told.append(drawn))
    assert plotter.is_waited_for
    plotter.wait()
    assert not plotter.is_waited_for
    drawn = {name: (tmp_path / name).read_text().split() for name in ("a", "b")}
    assert [drawn[name][1] for name in ("a", "b")] == ["a", "b"]
    assert len({HERE, int(drawn["a"][0]), int(drawn["b"][0])}) == 3
    assert told == [(tmp_path / "b", {"text": "b"}), (tmp_path / "a", {"text": "a"})]


def test_it_may_be_waited_for_several_times(plotter: Plotter, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        plotter.draw(plot(note, tmp_path / name), None)
        plotter.wait()
        assert (tmp_path / name).exists()
    plotter.wait()


def test_plots_are_drawn_at_once(plotter: Plotter, tmp_path: Path) -> None:
    plotter.draw(plot(wait_for, tmp_path / "a", tmp_path / "b"), None)
    plotter.draw(plot(wait_for, tmp_path / "b", tmp_path / "a"), None)
    plotter.wait()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_of_one_file_each_waits_for_the_one_before(plotter: Plotter, tmp_path: Path) -> None:
    for text in "abc":
        plotter.draw(plot(append, tmp_path / "file", text), None)
    plotter.wait()
    assert (tmp_path / "file").read_text() == "abc"


def test_ultralytics_curves_are_the_same_files(plotter: Plotter, tmp_path: Path) -> None:
    x, curve = np.linspace(0, 1, 1000), np.linspace(1, 0, 2000).reshape(2, 1000)
    arguments, told = (x, curve, np.full((2, 10), 0.5)), {}
    metrics.plot_pr_curve(*arguments, tmp_path / "here.png", {0: "a", 1: "b"}, on_plot=told.__setitem__)
    there = (*arguments, tmp_path / "there.png", {0: "a", 1: "b"})
    plotter.draw(Plot(metrics.__name__, "plot_pr_curve", there, {}, ""), told.__setitem__)
    matrix = metrics.ConfusionMatrix(names={0: "a", 1: "b"})
    matrix.matrix += np.arange(9).reshape(3, 3)
    (tmp_path / "there").mkdir()
    plotter.draw(Plot(metrics.__name__, "ConfusionMatrix.plot", (matrix,), {"save_dir": tmp_path / "there"}, "m"), None)
    plotter.wait()
    matrix.plot(save_dir=tmp_path)
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()
    assert told[tmp_path / "here.png"] == told[tmp_path / "there.png"]
    name = "confusion_matrix_normalized.png"
    assert (tmp_path / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_what_a_plot_says_is_said_here(plotter: Plotter, tmp_path: Path) -> None:
    said: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    plotter.draw(plot(note, tmp_path / "a"), None)
    LOGGER.addHandler(handler)
    try:
        plotter.wait()
    finally:
        LOGGER.removeHandler(handler)
    assert said == [(logging.INFO, "drawing a")]


def test_a_failure_comes_from_a_call_here(plotter: Plotter, tmp_path: Path) -> None:
    plotter.draw(plot(fail, tmp_path / "a"), None)
    with pytest.raises(ValueError, match="no such colour"):
        plotter.wait()
    assert (tmp_path / "a").read_text() == str(HERE)
    plotter.draw(plot(note, tmp_path / "b"), None)
    plotter.wait()
    assert (tmp_path / "b").read_text() != f"{HERE} "


def test_a_failure_of_one_that_may_be_missing_is_said_and_the_others_are_drawn(
    plotter: Plotter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plotter.draw(replace(plot(fail, tmp_path / "a"), may_be_missing=True), None)
    plotter.draw(plot(note, tmp_path / "b"), None)
    plotter.wait()
    assert capsys.readouterr().err == f"WARNING drawing {tmp_path / 'a'} failed: ValueError: no such colour\n"
    assert (tmp_path / "b").exists()


def test_a_lost_process_is_said_and_this_one_draws(
    plotter: Plotter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.kill(plotter._process, signal.SIGKILL)
    told: list[Any] = []
    for name in ("a", "b"):
        plotter.draw(plot(note, tmp_path / name), lambda *drawn: told.append(drawn[0]))
    plotter.wait()
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == [f"{HERE} "] * 2
    assert told == [tmp_path / "a", tmp_path / "b"]
    err = capsys.readouterr().err
    assert err.count("WARNING plots: the process that draws them") == 1
    assert "this one draws them now" in err


def test_one_that_ends_without_an_answer_is_said_and_drawn_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where no process can be forked for it, or the kernel takes one for want of memory."""
    run, fork = os.getpid(), os.fork

    def fails_there() -> int:
        if os.getpid() != run:
            raise OSError("no more processes")
        return fork()

    monkeypatch.setattr(os, "fork", fails_there)
    plotter = Plotter(at_once=2)
    file = tmp_path / "a.txt"
    plotter.draw(plot(note, file), None)
    plotter.wait()
    plotter.close()
    assert file.read_text().split() == [str(run)]
    assert capsys.readouterr().err.count("ended without an answer; this process draws it now") == 1


def begun_and_hanging(plotter: Plotter, file: Path) -> int:
    """The process that draws `file`, and will not be done with it."""
    plotter.draw(plot(hang_elsewhere, file), None)
    until_s = time.monotonic() + 30
    while not (hanging := file.with_suffix(".process")).exists() or not hanging.read_text():
        assert time.monotonic() < until_s
        time.sleep(0.01)
    return int(hanging.read_text())


@pytest.mark.parametrize("ended_children", [signal.SIG_DFL, signal.SIG_IGN], ids=["are kept", "are not kept"])
def test_nobody_waits_for_ever(
    plotter: Plotter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ended_children: signal.Handlers,
) -> None:
    hanging = begun_and_hanging(plotter, tmp_path / "a")
    monkeypatch.setattr(module, "ANSWERS_WITHIN_S", 0.2)
    before = signal.signal(signal.SIGCHLD, ended_children)
    try:
        plotter.wait()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (tmp_path / "a").read_text() == f"{HERE} "
    assert "does not answer within 0.2 s" in capsys.readouterr().err
    assert ended(hanging)


def test_a_brief_wait_takes_what_is_there_and_draws_nothing_itself(plotter: Plotter, tmp_path: Path) -> None:
    told: list[Any] = []
    plotter.draw(plot(note, tmp_path / "there"), lambda *drawn: told.append(drawn[0]))
    plotter.draw(plot(fail, tmp_path / "failed"), told.append)
    hanging = begun_and_hanging(plotter, tmp_path / "hanging")  # two at once: another one is done by now
    plotter.draw(plot(note, tmp_path / "there too"), lambda *drawn: told.append(drawn[0]))
    missing = plotter.wait_briefly(0.5)
    assert [str(tmp_path / "failed") + " (ValueError: no such colour)", str(tmp_path / "hanging")] == missing[:2]
    assert not (tmp_path / "hanging").exists()
    assert (tmp_path / "failed").read_text() != str(HERE)
    assert told[0] == tmp_path / "there"
    assert ended(hanging)
    assert not plotter.is_waited_for


def test_a_brief_wait_for_a_lost_process_draws_nothing_itself(plotter: Plotter, tmp_path: Path) -> None:
    os.kill(plotter._process, signal.SIGKILL)
    plotter.draw(plot(note, tmp_path / "a"), None)
    assert plotter.wait_briefly(30) == [str(tmp_path / "a")]
    assert not (tmp_path / "a").exists()


def test_plots_that_nobody_waits_for_end_with_it(plotter: Plotter, tmp_path: Path) -> None:
    hanging = begun_and_hanging(plotter, tmp_path / "a")
    plotter.close()
    assert ended(hanging)


class InterruptedAfterOne:
    """A pipe at whose second message somebody presses Ctrl-C."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.messages = pipe, 0
        self.poll = pipe.poll

    def recv_bytes(self) -> bytes:
        self.messages += 1
        if self.messages > 1:
            raise KeyboardInterrupt
        return self.pipe.recv_bytes()


def test_a_wait_that_was_interrupted_is_taken_up_again(
    plotter: Plotter, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run closes after Ctrl-C: it must not wait for plots that were answered for before."""
    for name in ("a", "b"):
        plotter.draw(plot(note, tmp_path / name), None)
    with monkeypatch.context() as patched:
        patched.setattr(plotter, "_pipe", InterruptedAfterOne(plotter._pipe))
        with pytest.raises(KeyboardInterrupt):
            plotter.wait()
    monkeypatch.setattr(module, "ANSWERS_WITHIN_S", 0.2)  # the second answer is there
    plotter.wait()
    assert capsys.readouterr().err == ""
    assert str(HERE) not in [(tmp_path / name).read_text().split()[0] for name in ("a", "b")]


class EndsWithANote:
    """As a loader's iterator tells its workers, when it is thrown away."""

    def __init__(self, path: Path) -> None:
        self.path, self.itself = path, self

    def __del__(self) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()} ")


def collect(path: Path, on_plot: Any = None) -> None:
    path.write_text(str(gc.collect()))


def test_what_the_run_threw_away_does_not_end_in_the_process_that_draws(tmp_path: Path) -> None:
    note = tmp_path / "note"
    gc.disable()
    try:
        EndsWithANote(note)  # unreachable from here on, and not collected
        with_garbage = Plotter(at_once=1)
        with_garbage.draw(plot(collect, tmp_path / "a"), None)
        with_garbage.wait()
        assert (tmp_path / "a").exists()
        assert not note.exists()
        with_garbage.close()
    finally:
        gc.enable()
    gc.collect()
    assert note.read_text() == f"{os.getpid()} "


def test_signals_that_end_a_run_do_not_end_its_plots(plotter: Plotter, tmp_path: Path) -> None:
    plotter.draw(plot(note, tmp_path / "a"), None)
    plotter.wait()  # it has seen to its signals
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(plotter._process, number)
    plotter.draw(plot(note, tmp_path / "b"), None)
    plotter.wait()
    assert (tmp_path / "b").read_text() != f"{HERE} "


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    made = Plotter(at_once=1)
    process, folder = made._process, made._folder
    made.draw(plot(note, tmp_path / "a"), None)
    made.wait()
    assert list(folder.iterdir()) == []
    made.close()
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not folder.exists()


ABANDONED = """
import os, sys
import matplotlib.pyplot
from yolov12.engine import plotter
plotter.LOOKS_FOR_RUN_EVERY_S = 0.05
made = plotter.Plotter(at_once=1)
print(made._process, made._folder, flush=True)
os.kill(os.getpid(), 9)
"""


def test_it_ends_with_a_run_that_was_killed() -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED], stdout=subprocess.PIPE, text=True, timeout=200)
    process, folder = done.stdout.split()  # all of it: this waited until the forked process had closed its end
    assert done.returncode == -signal.SIGKILL
    assert not Path(folder).exists()
    assert ended(int(process))


KILLED_BESIDE_A_WORKER = """
import os, sys, time
import matplotlib.pyplot
from yolov12.engine import plotter
plotter.LOOKS_FOR_RUN_EVERY_S = 600
made = plotter.Plotter(at_once=1)
if sys.argv[1] == "drawing":
    made.draw(plotter.Plot("time", "sleep", (600,), {}, "", takes_on_plot=False), None)
worker = os.fork()
if worker == 0:  # with the run's end of the pipe
    for number in (1, 2):
        os.close(number)
    time.sleep(600)
print(made._process, made._folder, worker, flush=True)
time.sleep(1)
os.kill(os.getpid(), 9)
"""


def can_watch_a_process() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


@pytest.mark.skipif(
    not can_watch_a_process(),
    reason="this kernel, or a sandbox, refuses pidfd_open, and it would look every ten minutes here",
)
@pytest.mark.parametrize("what", ["idle", "drawing"])
def test_it_ends_with_a_run_that_was_killed_while_its_workers_live_on(what: str) -> None:
    """They hold the pipe open."""
    command = [sys.executable, "-c", KILLED_BESIDE_A_WORKER, what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=200)
    process, folder, worker = done.stdout.split()
    try:
        assert done.returncode == -signal.SIGKILL
        assert ended(int(process))
        assert not Path(folder).exists()
    finally:
        os.kill(int(worker), signal.SIGKILL)


def test_without_room_for_a_pipe_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(module, "Pipe", full)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="too many open files"):
        Plotter(at_once=1)
    assert list(tmp_path.iterdir()) == []


WITHOUT_A_HOME = """
import sys
from yolov12.engine.plotter import Plot, Plotter
made = Plotter(at_once=1)
made.draw(Plot("os", "mkdir", (sys.argv[1],), {}, "", takes_on_plot=False), None)
made.wait()
made.close()
print("matplotlib" in sys.modules)
"""


def test_matplotlibs_temporary_folder_is_not_left_where_there_is_no_home(tmp_path: Path) -> None:
    """It has one removed when Python ends, which the process that draws leaves out."""
    (tmp_path / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    environment |= {"HOME": "/dev/null/nowhere", "TMPDIR": str(tmp_path / "tmp"), "YOLO_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_HOME, str(tmp_path / "drawn")],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "created a temporary cache directory" in done.stderr, "the test must be able to fail"
    assert done.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "drawn").is_dir()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "polars", raising=False)
    assert why_not() == ""
    monkeypatch.setitem(sys.modules, "polars", np)
    assert "polars" in why_not()
    monkeypatch.delattr(os, "fork")
    assert "fork" in why_not()
