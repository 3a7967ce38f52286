# SPDX-License-Identifier: AGPL-3.0-or-later
"""One file at a time, in a thread; no failure is lost, and no whole checkpoint either."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from yolov12.engine.saving import Previous, Saver, somebody_reads
from yolov12.engine.trainer import YOLOv12Trainer
from yolov12.errors import RetryableError
from yolov12.model.seal import seal


def write(path: Path, epoch: int) -> None:
    torch.save({"epoch": epoch}, path)
    seal(path)


def epoch_in(path: Path) -> int:
    return torch.load(path)["epoch"]


class Slow:
    """A job that is held up until it is told to end."""

    def __init__(self, done: list[str]) -> None:
        self.done, self.began, self.may_end = done, threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.may_end.wait(30)
        self.done.append("slow")


def test_training_goes_on_while_a_file_is_written() -> None:
    saver, done = Saver(), []
    slow = Slow(done)
    saver.offer("last.pt", slow)
    saver.offer("best.pt", lambda: done.append("best"))
    assert not done
    slow.may_end.set()
    saver.wait()
    assert done == ["slow", "best"]


def test_what_was_not_begun_makes_room_for_newer_states_of_the_same_file_only() -> None:
    saver, done = Saver(), []
    slow = Slow(done)
    saver.offer("last.pt", slow)
    assert slow.began.wait(30)
    for epoch in range(3):
        saver.offer("last.pt", lambda epoch=epoch: done.append(f"last of {epoch}"))
    saver.offer("best.pt", lambda: done.append("best"))
    saver.offer("last.pt", lambda: done.append("last of 3"))
    slow.may_end.set()
    saver.wait()
    assert done == ["slow", "last of 3", "best"]


def test_after_all_was_written_another_file_can_be() -> None:
    saver, done = Saver(), []
    for epoch in range(3):
        saver.offer("last.pt", lambda epoch=epoch: done.append(epoch))
        saver.wait()
    assert done == [0, 1, 2]


def fails() -> None:
    raise RetryableError("no room")


def test_a_failure_is_raised_once_and_what_waits_is_not_tried() -> None:
    saver, done = Saver(), []
    slow = Slow(done)
    saver.offer("epoch1.pt", slow)
    saver.offer("last.pt", fails)
    saver.offer("best.pt", lambda: done.append("best"))
    slow.may_end.set()
    with pytest.raises(RetryableError, match="no room"):
        saver.wait()
    saver.wait()
    assert done == ["slow"]


def test_a_failure_is_raised_by_the_next_save() -> None:
    saver = Saver()
    saver.offer("last.pt", fails)
    writer = saver._thread
    if writer is not None:
        writer.join()
    with pytest.raises(RetryableError, match="no room"):
        saver.offer("last.pt", lambda: None)


def test_a_look_raises_it_too_but_waits_for_nothing() -> None:
    saver, may_end = Saver(), threading.Event()

    def fails_later() -> None:
        assert may_end.wait(30)
        fails()

    saver.look()
    saver.offer("last.pt", fails_later)
    writer = saver._thread
    saver.look()
    may_end.set()
    writer.join()
    with pytest.raises(RetryableError, match="no room"):
        saver.look()
    saver.look()


def test_a_failure_that_comes_in_the_middle_of_a_look_is_not_lost() -> None:
    class Watched(Saver):
        """A job fails right after its failure was looked for."""

        @property
        def _failure(self) -> BaseException | None:
            seen = vars(self).get("failure")
            if "comes" in vars(self):
                vars(self)["failure"] = vars(self).pop("comes")
            return seen

        @_failure.setter
        def _failure(self, failure: BaseException | None) -> None:
            vars(self)["failure"] = failure

    saver = Watched()
    vars(saver)["comes"] = RetryableError("no room")
    saver.look()
    with pytest.raises(RetryableError, match="no room"):
        saver.look()


def test_a_run_that_ends_for_another_reason_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    saver = Saver()
    saver.offer("last.pt", fails)
    saver.close()
    assert "the last checkpoint was not saved: no room" in capsys.readouterr().err


def of_module(name: str) -> Callable[[Any], None]:
    def callback(trainer: Any) -> None: ...

    callback.__module__ = name
    return callback


@pytest.mark.parametrize(
    ("event", "module", "reads"),
    [
        ("on_model_save", "ultralytics.utils.callbacks.base", False),
        ("on_model_save", "ultralytics.utils.callbacks.hub", True),
        ("on_model_save", "__main__", True),
        ("on_fit_epoch_end", "ultralytics.utils.callbacks.base", False),
        ("on_fit_epoch_end", "ultralytics.utils.callbacks.comet", True),
        ("on_fit_epoch_end", "__main__", True),
    ],
)
def test_files_are_waited_for_where_a_callback_may_read_them(event: str, module: str, reads: bool) -> None:
    callbacks: dict[str, list[Any]] = {"on_model_save": [], "on_fit_epoch_end": []}
    callbacks[event].append(of_module(module))
    assert somebody_reads(callbacks, uploads=False) is reads


@pytest.mark.parametrize("uploads", [False, True])
def test_nobody_reads_in_a_run_as_stock_sets_it_up_but_one_of_the_platform(uploads: bool) -> None:
    from ultralytics.utils.callbacks.base import add_integration_callbacks, get_default_callbacks

    trainer = type("DetectionTrainer", (), {"callbacks": get_default_callbacks()})()
    add_integration_callbacks(trainer)
    assert somebody_reads(trainer.callbacks, uploads=uploads) is uploads


@pytest.fixture
def last(tmp_path: Path) -> Path:
    write(tmp_path / "last.pt", 1)
    return tmp_path / "last.pt"


def test_what_is_replaced_is_kept_without_a_copy(last: Path) -> None:
    keeper = Previous(last)
    keeper.keep()
    assert keeper.previous.stat().st_ino == last.stat().st_ino
    write(last.with_name("new"), 2)
    os.replace(last.with_name("new"), last)
    assert (epoch_in(keeper.previous), epoch_in(last)) == (1, 2)
    keeper.keep()
    assert epoch_in(keeper.previous) == 2
    assert not list(last.parent.glob(".*"))


def test_where_there_are_no_hard_links_it_is_copied(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    keeper = Previous(last)
    keeper.keep()
    assert epoch_in(keeper.previous) == 1


def test_a_damaged_file_does_not_drive_out_the_whole_one_before_it(last: Path) -> None:
    Previous(last).keep()
    last.unlink()
    last.write_bytes(b"half")
    Previous(last).keep()
    assert epoch_in(Previous(last).previous) == 1


def test_no_room_to_keep_it_is_worth_a_retry(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(RetryableError, match=r"no room to keep .*last\.pt"):
        Previous(last).keep()
    assert epoch_in(last) == 1


def test_the_first_checkpoint_has_none_before_it_and_a_finished_run_keeps_none(tmp_path: Path) -> None:
    keeper = Previous(tmp_path / "last.pt")
    keeper.keep()
    keeper.forget()
    write(tmp_path / "last.pt", 1)
    keeper.keep()
    keeper.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def spoiled(which: str) -> YOLOv12Trainer:
    """A trainer with a NaN in its model or its average."""
    trainer = object.__new__(YOLOv12Trainer)
    models = {name: nn.Linear(2, 2) for name in ("model", "average")}
    trainer.model, trainer.ema = models["model"], SimpleNamespace(ema=models["average"])
    with torch.no_grad():
        models[which].bias[0] = float("nan")
    return trainer


@pytest.mark.parametrize("which", ["model", "average"])
def test_weights_that_are_not_finite_do_not_replace_the_last_checkpoint(which: str, capsys: pytest.CaptureFixture[str]):
    """A NaN in mid-epoch is for the recovery at its end, which loads what was saved before."""
    assert spoiled(which).save_last({}) is False
    assert "not finite" in capsys.readouterr().err


def test_nor_at_an_epochs_end_where_the_next_one_recovers_from_it(
    capsys: pytest.CaptureFixture[str],
):
    """They became so in the epoch's last update, which no loss has seen yet."""
    trainer = spoiled("model")
    trainer.has_checkpoint = True  # also in the first epoch of a run that was resumed
    assert trainer.save_model() is False
    assert "the weights are not finite, so last.pt stays as it was" in capsys.readouterr().err
