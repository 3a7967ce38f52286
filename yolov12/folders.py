# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where this package may write, and why there."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from yolov12.errors import RetryableError, UserError

WORKSPACE = Path("/workspace")
"""Where the user's folder is mounted in the image."""

FULL = (errno.ENOSPC, errno.EDQUOT)


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in `folder`, or "" if one can. It is tried: permission bits say nothing on network and read-only mounts.

    Raises:
        RetryableError: the disk is full.
    """
    if not folder.is_dir():
        return "not a folder"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        if error.errno in FULL:
            raise RetryableError(f"{folder}: {error.strerror}: make room and run the same command again") from error
        return (error.strerror or str(error)).lower()


def check_writable(path: Path, words: str = "") -> None:
    """Make sure that the folder `path` can be made or written to, without making it.

    Args:
        path: the folder; it need not exist.
        words: how the user asked for it, for the error.

    Raises:
        UserError: it can not.
        RetryableError: the disk is full.
    """
    path = path.absolute()
    nearest = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if reason := why_not_writable(nearest):
        where = f"{words}: can not write to {path}" if words else f"can not write to {path}"
        advice = "name another folder" if words else "name one with project=FOLDER"
        raise UserError(f"{where} ({nearest}: {reason}); {advice}")


def runs_folder() -> tuple[Path, str]:
    """Where runs go when the user names no folder, and why: the mounted workspace, else below the current folder."""
    if reason := why_not_writable(WORKSPACE):
        return Path.cwd() / "runs", f"{WORKSPACE}: {reason}"
    return WORKSPACE / "runs", f"{WORKSPACE} is writable"


def choose_cache(explicit: Path | None, words: str) -> tuple[Path, str]:
    """The cache folder, made if need be, and the reason for it.

    Args:
        explicit: the folder that the user named, if any.
        words: how the user named it.

    Raises:
        UserError: that folder, or without one every folder, can not be written to.
    """
    if explicit is not None:
        if reason := _why_not_made(explicit):
            raise UserError(
                f"{words}: can not write there ({reason}); name a folder that you may write to, or leave it out"
            )
        return explicit, words
    folder = WORKSPACE / ".yolov12"
    reason = _why_not_made(folder) if WORKSPACE.is_dir() else f"there is no {WORKSPACE}"
    if not reason:
        return folder, "kept with your files" if os.path.ismount(
            WORKSPACE
        ) else f"{WORKSPACE} is not a mount: lost with the container"
    return _temporary(), f"temporary: {reason}; to keep it, mount a folder on {WORKSPACE} or set YOLOV12_CACHE_DIR"


def _why_not_made(folder: Path) -> str:
    """Make the private folder; "" if it can be written to, else why not."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}"
    reason = why_not_writable(folder)
    return f"{folder}: {reason}" if reason else ""


def _temporary() -> Path:
    """A folder for this user under the system's temporary one: the same for all processes, if it is really ours."""
    try:
        folder = Path(tempfile.gettempdir()) / f"yolov12-{os.getuid()}"
    except FileNotFoundError as error:
        raise UserError(
            f"no folder is writable: mount one on {WORKSPACE}, or add `--tmpfs /tmp` to `docker run`"
        ) from error
    if not _why_not_made(folder):
        found = folder.lstat()
        # Someone else may have made that name first, to have us load what lies there.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="yolov12-"))
