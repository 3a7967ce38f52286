# SPDX-License-Identifier: AGPL-3.0-or-later
"""The picture is a picture, whatever there is to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from yolov12.memory.history import Event
from yolov12.memory.picture import draw
from yolov12.memory.usage import Point

COURSE = [Point(step, 2**30 * (1 + step % 3), 4 * 2**30) for step in range(20)]
EVENTS = [Event(3, "retry", "full"), Event(3, "plan", "a -> b"), Event(9, "split", "1 -> 2")]


@pytest.mark.parametrize("points", [COURSE, COURSE[:2], [Point(0, 1, None), Point(1, 2, None)]])
@pytest.mark.parametrize("events", [EVENTS, []])
def test_it_is_small_and_can_be_read(tmp_path: Path, points: list[Point], events: list[Event]):
    draw(tmp_path / "memory.png", points, events)
    assert (tmp_path / "memory.png").stat().st_size < 100_000
    height, width, _ = imread(tmp_path / "memory.png").shape
    assert (width, height) == (800, 350)


def test_events_are_marked(tmp_path: Path):
    draw(tmp_path / "with.png", COURSE, EVENTS)
    draw(tmp_path / "without.png", COURSE, [])
    assert (imread(tmp_path / "with.png") != imread(tmp_path / "without.png")).any()


def test_the_module_costs_a_run_no_matplotlib_before_it_draws():
    code = "import sys, yolov12.memory.picture; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
