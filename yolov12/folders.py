# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where this package may write, and why there."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov12.errors import RetryableError, UserError
from yolov12.log import say_once

WORKSPACE = Path("/workspace")
"""Where the user's folder is mounted in the image."""

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception says that there is no room left, be it torch.save's, which loses the number of the error on the way."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, RuntimeError) and bool(  # caffe2/serialize/inline_container.cc
        re.search(r"inline_container.*(unexpected pos|write failed)", str(error), re.DOTALL)
    )


@contextmanager
def named_where_full(folder: Path) -> Iterator[None]:
    """Within the block a full disk is told with the folder that is written to: the error of a write names no file, that of an open does.

    Raises:
        RetryableError: the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_full_disk(error) or getattr(error, "filename", None):
            raise
        reason = getattr(error, "strerror", None) or "torch could not write all of it"
        raise RetryableError(f"no room in {folder} ({reason}); make room and run the same command again") from error


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
        if error.errno == errno.ENOENT:  # /proc and its like say so of every new file
            return "no files can be made there"
        return (error.strerror or str(error)).lower()


def check_writable(path: Path, words: str = "", argument: str = "project") -> None:
    """Make sure that the folder `path` can be made or written to, without making it.

    Args:
        path: the folder; it need not exist.
        words: how the user asked for it, for the error.
        argument: by what another folder can be asked for.

    Raises:
        UserError: it can not.
        RetryableError: the disk is full.
    """
    path = path.absolute()
    nearest = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if reason := why_not_writable(nearest):
        where = f"{words}: can not write to {path}" if words else f"can not write to {path}"
        advice = "name another folder" if words else f"name one with {argument}=FOLDER"
        raise UserError(f"{where} ({nearest}: {reason}); {advice}")


def runs_folder() -> tuple[Path, str]:
    """Where runs go when the user names no folder, and why: the mounted workspace, else below the current folder."""
    below_here = Path.cwd() / "runs"
    if not WORKSPACE.exists():
        where = f"below the current folder, as everywhere but in a container with a folder mounted on {WORKSPACE}"
        return below_here, f"{where}; nothing needs doing"
    if reason := why_not_writable(WORKSPACE):
        why = f"{WORKSPACE} can not be written to ({reason}); mount a folder of yours there to have them in it"
        return below_here, why
    return WORKSPACE / "runs", f"{WORKSPACE} is writable"


def of_run(options: Mapping[str, Any], task: str) -> Path | None:
    """Where the folder of a run with these arguments is to be made; None where the user named the run's own folder."""
    if options.get("save_dir"):
        return None
    runs, reason = runs_folder()
    if WORKSPACE.exists() and WORKSPACE not in runs.parents:
        say_once("runs", f"runs go to {runs} ({reason})")
    return runs / task / (options.get("project") or "")  # an absolute project stands alone


def check_run(options: Mapping[str, Any]) -> None:
    """`check_writable` for the folder of a run.

    Raises:
        UserError: it can not be written to.
        RetryableError: the disk is full.
    """
    if options.get("save_dir"):
        check_writable(Path(options["save_dir"]), f"save_dir={options['save_dir']}")
    elif folder := of_run(options, str(options.get("task") or "detect")):
        check_writable(folder, f"project={options['project']}" if options.get("project") else "")


def choose_cache(explicit: Path | None, words: str, may_be_full: bool = False) -> tuple[Path, str]:
    """The cache folder, made if need be, and the reason for it.

    Args:
        explicit: the folder that the user named, if any.
        words: how the user named it.
        may_be_full: take a folder whose disk is full too, of which there may then be none.

    Raises:
        UserError: that folder, or without one every folder, can not be written to.
        RetryableError: the disk is full.
    """
    if explicit is not None:
        if reason := _why_not_made(explicit, may_be_full):
            raise UserError(
                f"{words}: can not write there ({reason}); name a folder that you may write to, or leave it out"
            )
        return explicit, words
    if WORKSPACE.is_dir():
        folder = WORKSPACE / ".yolov12"
        if not (reason := _why_not_made(folder, may_be_full)):
            mounted = os.path.ismount(WORKSPACE)
            return folder, "kept with your files" if mounted else f"{WORKSPACE} is not a mount: lost with the container"
        return _temporary(), f"temporary: {reason}; to keep it, mount a folder on {WORKSPACE} or set YOLOV12_CACHE_DIR"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "yolov12"
    # Without a home `~` stays as it is.
    if not (reason := _why_not_made(folder, may_be_full) if folder.is_absolute() else "there is no home folder"):
        return folder, "YOLOV12_CACHE_DIR changes it"
    return _temporary(), f"temporary: {reason}; to keep it, set YOLOV12_CACHE_DIR"


def _why_not_made(folder: Path, may_be_full: bool = False) -> str:
    """Make the private folder; "" if it can be written to, else why not."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = why_not_writable(folder)
    except OSError as error:
        if may_be_full and is_full_disk(error):
            return ""
        return f"{error.filename}: {(error.strerror or str(error)).lower()}"
    except RetryableError:
        if may_be_full:
            return ""
        raise
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
