# SPDX-License-Identifier: AGPL-3.0-or-later
"""One job at a time, in a thread; no failure is lost, and no whole checkpoint either."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from yolov12.engine.saving import Previous, Saver
from yolov12.engine.trainer import YOLOv12Trainer
from yolov12.errors import RetryableError
from yolov12.model.seal import seal


def write(path: Path, epoch: int) -> None:
    torch.save({"epoch": epoch}, path)
    seal(path)


def epoch_in(path: Path) -> int:
    return torch.load(path)["epoch"]


def test_training_goes_on_while_a_job_runs_and_the_next_save_waits_for_it() -> None:
    saver, may_end, done = Saver(), threading.Event(), []

    def slow() -> None:
        assert may_end.wait(30)
        done.append("first")

    saver.start(slow)
    assert not done
    may_end.set()
    saver.start(lambda: done.append("second"))
    assert done[0] == "first"
    saver.wait()
    assert done == ["first", "second"]


def fails() -> None:
    raise RetryableError("no room")


def test_a_failure_is_raised_once_by_the_next_save() -> None:
    saver = Saver()
    saver.start(fails)
    with pytest.raises(RetryableError, match="no room"):
        saver.start(lambda: None)
    saver.wait()


def test_a_look_raises_it_too_but_waits_for_nothing() -> None:
    saver, may_end = Saver(), threading.Event()

    def fails_later() -> None:
        assert may_end.wait(30)
        fails()

    saver.look()
    saver.start(fails_later)
    saver.look()
    may_end.set()
    saver._thread.join()
    with pytest.raises(RetryableError, match="no room"):
        saver.look()
    saver.look()


def test_a_run_that_ends_for_another_reason_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    saver = Saver()
    saver.start(fails)
    saver.close()
    assert "the last checkpoint was not saved: no room" in capsys.readouterr().err


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
    """A trainer in its second epoch, with a NaN in its model or its average."""
    trainer = object.__new__(YOLOv12Trainer)
    models = {name: nn.Linear(2, 2) for name in ("model", "average")}
    trainer.model, trainer.ema = models["model"], SimpleNamespace(ema=models["average"])
    trainer.epoch, trainer.start_epoch = 1, 0
    with torch.no_grad():
        models[which].bias[0] = float("nan")
    return trainer


@pytest.mark.parametrize("which", ["model", "average"])
def test_weights_that_are_not_finite_do_not_replace_the_last_checkpoint(which: str, capsys: pytest.CaptureFixture[str]):
    """A NaN in mid-epoch is for the recovery at its end, which loads what was saved before."""
    assert spoiled(which).save_last({}) is False
    assert "not finite" in capsys.readouterr().err


def test_nor_at_an_epochs_end_where_the_next_one_recovers_from_it(capsys: pytest.CaptureFixture[str]):
    """They became so in the epoch's last update, which no loss has seen yet."""
    assert spoiled("model").save_model() is False
    assert "the weights are not finite, so last.pt stays as it was" in capsys.readouterr().err
