# SPDX-License-Identifier: AGPL-3.0-or-later
"""What ultralytics' bars and log lines look like in a log file and on a terminal."""

from __future__ import annotations

import io
import logging

import pytest
from ultralytics.utils import LOGGER, TQDM, colorstr

from yolov12.engine import progress


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    progress.install()


def drawn(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a bar over three steps with a coloured and a changing description writes to `out`, which is stdout."""
    monkeypatch.setattr("sys.stdout", out)
    bar = TQDM(range(3), desc=colorstr("train: "), mininterval=0.0)
    for step in bar:
        bar.set_description(colorstr("train: ") + f"step {step}")
    return out.getvalue()


def test_in_a_log_a_bar_is_one_plain_line(monkeypatch: pytest.MonkeyPatch):
    text = drawn(io.StringIO(), monkeypatch)
    assert text.startswith("train: step 2: 100%")
    assert (text.count("\n"), text.count("\r"), text.count("\x1b")) == (1, 0, 0)


def test_on_a_terminal_a_bar_is_redrawn_in_colour(monkeypatch: pytest.MonkeyPatch):
    text = drawn(Screen(), monkeypatch)
    assert text.count("\r") > 3
    assert colorstr("train: ") in text


def test_a_notebook_is_watched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert "\r" in drawn(io.StringIO(), monkeypatch)


@pytest.mark.parametrize(("out", "coloured"), [(io.StringIO(), False), (Screen(), True)])
def test_log_lines_have_colours_on_a_terminal_only(out: io.StringIO, coloured: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout", out)
    handler = logging.StreamHandler(heard := io.StringIO())
    LOGGER.addHandler(handler)
    try:
        LOGGER.error("results in %s", "runs")
        LOGGER.error(f"results in {colorstr('bold', 'runs')}")
    finally:
        LOGGER.removeHandler(handler)
    assert ("\x1b" in heard.getvalue()) is coloured
    assert heard.getvalue().count("results in") == 2


def test_installing_again_changes_nothing():
    filters = list(LOGGER.filters)
    progress.install()
    assert LOGGER.filters == filters
