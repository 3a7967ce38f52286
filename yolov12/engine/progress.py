# SPDX-License-Identifier: AGPL-3.0-or-later
"""Progress for a log file: where stdout is no terminal, a bar is one plain line, printed when it is done, and nothing is coloured.

ultralytics redraws its bars with control codes wherever it runs, except on GitHub's machines (utils/tqdm.py:17 of 8.4.190).
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from ultralytics.utils import LOGGER, remove_colorstr, tqdm

from yolov12.seams import Seam

SEAMS = (
    Seam("utils/tqdm.py", 16, "ultralytics.utils.tqdm.is_noninteractive_console", "d44f1b563dec"),
    Seam("utils/tqdm.py", 231, "ultralytics.utils.tqdm.TQDM._display", "8012fbccbeb4"),
)

_stock_display = tqdm.TQDM._display


def install() -> None:
    """Make ultralytics' bars and log lines plain in a log. May be called again."""
    tqdm.is_noninteractive_console = is_log
    tqdm.TQDM._display = _display
    LOGGER.addFilter(_plain_in_a_log)


def is_log() -> bool:
    """Whether what is printed is kept and not watched: stdout is no terminal. A notebook watches, though it is none."""
    return "GITHUB_ACTIONS" in os.environ or not (sys.stdout.isatty() or "JPY_PARENT_PID" in os.environ)


def _display(bar: Any, final: bool = False) -> None:
    """Upstream's method, for which a bar in a log has no colours; it prints such a bar when it is closed."""
    if bar.noninteractive:
        bar.desc = remove_colorstr(bar.desc)
    _stock_display(bar, final)


def _plain_in_a_log(record: logging.LogRecord) -> bool:
    """A logging filter that lets everything pass."""
    if is_log() and isinstance(record.msg, str):
        record.msg = remove_colorstr(record.msg)
    return True
