# SPDX-License-Identifier: AGPL-3.0-or-later
"""A font for pictures and plots without a download.

Stock ultralytics fetches Arial.ttf into the user's configuration folder when a plot first needs it (utils/checks.py:436 of 8.4.190), even with
YOLO_OFFLINE=1. DejaVu Sans comes with matplotlib, which ultralytics requires anyway. It covers Latin, Greek, Cyrillic, Armenian, Georgian,
Hebrew and Arabic, but not Chinese, Japanese, Korean, Thai or the scripts of India: those show as empty boxes unless the user provides a
font.
"""

from __future__ import annotations

import functools
from pathlib import Path

from yolov12.log import say_once

_ASKED_FOR_UNICODE = "Arial.Unicode.ttf"
"""The name by which ultralytics asks when a class name is not ASCII (data/utils.py:834, utils/plotting.py:334)."""


def bundled() -> Path:
    """The font file that comes with matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def find(font: str, config_dir: Path) -> tuple[Path, str]:
    """The file to draw with when `font` (a name or a path) is asked for, and why it is that one."""
    if Path(font).is_file():
        return Path(font), "named by the caller"
    own = config_dir / Path(font).name
    if own.is_file():
        return own, "put there by the user"
    installed = _installed(font)
    if installed is not None:
        return installed, "installed on this system"
    return bundled(), f"comes with matplotlib; {font} is not here"


@functools.lru_cache
def check_font(font: str = "Arial.ttf") -> Path:
    """Stand-in for ultralytics' function of this name: same order of places, and where stock would download, the bundled font."""
    from ultralytics.utils import USER_CONFIG_DIR

    path, _ = find(str(font), USER_CONFIG_DIR)
    if font == _ASKED_FOR_UNICODE and path == bundled():
        say_once(
            "font",
            "font: DejaVu Sans draws the class names (no Chinese, Japanese, Korean, Thai or Indic letters): "
            f"for those put a font at {USER_CONFIG_DIR / _ASKED_FOR_UNICODE}",
        )
    return path


def check_beforehand(font: str) -> None:
    """Stand-in for `check_font` where ultralytics asks for a font before anything is drawn, to download it (data/utils.py:834).

    There is no download, and looking for a font takes matplotlib, for a second where it has no list of fonts yet. So only what would be said is.
    """
    if font == _ASKED_FOR_UNICODE:
        check_font(font)


def _installed(font: str) -> Path | None:
    from matplotlib import font_manager

    paths = (Path(entry.fname) for entry in font_manager.fontManager.ttflist if font in entry.fname)
    return next((path for path in paths if path.is_file()), None)
