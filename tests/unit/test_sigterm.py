# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIGTERM as an exception: what was half made goes, and the exit code says why."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from yolov12.sigterm import as_an_exception as ending
from yolov12.sigterm import held


def test_what_was_half_made_goes_and_the_exit_code_says_why(tmp_path):
    with (
        pytest.raises(SystemExit) as ended,
        ending(),
        tempfile.TemporaryDirectory(dir=tmp_path) as folder,
    ):
        (Path(folder) / "part").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")
    assert ended.value.code == 143
    assert list(tmp_path.iterdir()) == []


def test_a_second_one_does_not_disturb_the_clearing_up():
    with pytest.raises(SystemExit), ending():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleared = True
    assert cleared


def test_afterwards_the_signal_is_whose_it_was():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        with ending():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["mine"]


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_that_a_library_would_drop_come_when_it_is_done(number, raised, capfd):
    done = []
    with ending(), pytest.raises(raised), held("this library"):
        signal.raise_signal(number)
        signal.raise_signal(number)
        done.append("all")
    assert done == ["all"]
    assert capfd.readouterr().err.count("this library can not be interrupted: this ends when it is done\n") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held("this library"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
