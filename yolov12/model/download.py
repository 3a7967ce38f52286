# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fetch a file that the user named, into the cache, in the open: address, size, progress and hash are shown (promise 8).

Only the standard library is used, so that what goes over the network can be read here in full.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolov12 import __version__, log, settings
from yolov12.errors import RetryableError, UserError
from yolov12.folders import why_not_writable
from yolov12.wholefile import replacing

TIMEOUT_S = 30
"""How long one connection attempt, or one silence in the middle of the body, may last."""

_CHUNK_BYTES = 1 << 18
_LINE_EVERY = 0.25  # share of the file; for logs, where a bar would be noise
_LINES_ABOVE_BYTES = 32e6
_ZIP_MAGIC = b"PK\x03\x04"
_MAY_PASS = {408, 425, 429}  # client errors that a later attempt may not see


def fetch(name: str, url: str, sha256: str | None = None, folder: str = "") -> Path:
    """The file `name` in the cache; downloaded from `url` if it is not there yet.

    Args:
        name: file name in the cache. The content of a `.pt` must look like a checkpoint.
        url: http(s) address.
        sha256: the hash that the content must have; None shows the hash and checks nothing.
        folder: folder below the cache's `weights`.

    Raises:
        UserError: offline, no such address, a web page instead of the file, the wrong hash, or the cache can not be written to.
        RetryableError: the network or the server failed, or the disk is full.
    """
    target = settings.cache_dir() / "weights" / folder / name
    if target.is_file():
        return target
    by_hand = f"fetch {_shown(url)} yourself and put it at {target}"
    if settings.current().offline:
        raise UserError(f"{name} is not here and YOLOV12_OFFLINE=1 forbids the network: {by_hand}")
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"{_shown(url)}: only http and https addresses are fetched")
    _make(target.parent)
    with _one_at_a_time(target):
        if not target.is_file():  # else another rank fetched it while this one waited
            _download(url, target, sha256, by_hand)
    return target


def _download(url: str, target: Path, sha256: str | None, by_hand: str) -> None:
    digest = hashlib.sha256()
    with _opened(url, by_hand) as answer, replacing(target) as part, open(part, "wb") as file:
        length = answer.headers.get("Content-Length") or ""
        total = int(length) if length.isdigit() else 0
        size = f"{total / 1e6:.1f} MB" if total else "size unknown"
        log.say(f"download: {target.name} ({size}) from {_shown(url)}")
        done = 0
        for chunk in _chunks(answer, url, by_hand):
            if done == 0:
                _check_start(chunk, answer.headers.get("Content-Type") or "", url, target.name, by_hand)
            file.write(chunk)
            digest.update(chunk)
            _show_progress(target.name, done, done + len(chunk), total)
            done += len(chunk)
        if done == 0 or done < total:
            raise RetryableError(
                f"{_shown(url)} broke off after {done} of {total} bytes: run the same command again, or {by_hand}"
            )
        found = digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise UserError(
                f"{_shown(url)} has sha256 {found}, expected {sha256}: it is not the file that was meant and was not kept"
            )
    pinned = "as pinned" if sha256 else "hash not pinned, shown so that you can"
    log.say(f"download: {target} ({done / 1e6:.1f} MB), sha256 {found} ({pinned})")


@contextmanager
def _opened(url: str, by_hand: str) -> Iterator[http.client.HTTPResponse]:
    agent = {"User-Agent": f"yolov12/{__version__}", "Accept-Encoding": "identity"}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=agent), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        said = f"{_shown(url)} answers {error.code} {error.reason}"
        if error.code >= 500 or error.code in _MAY_PASS:
            raise RetryableError(f"{said}: run the same command later, or {by_hand}") from error
        raise UserError(f"{said}: check the name, or {by_hand}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise UserError(f"{_shown(url)} is not an address that can be fetched: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise RetryableError(
            f"can not reach {_shown(url)} ({_reason(error)}): run the same command later, or {by_hand}"
        ) from error
    with answer:
        yield answer


def _chunks(answer: http.client.HTTPResponse, url: str, by_hand: str) -> Iterator[bytes]:
    """The body in pieces. Errors of the network become ours here, where they can not be taken for errors of the disk."""
    while True:
        try:
            chunk = answer.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise RetryableError(
                f"{_shown(url)} broke off ({_reason(error)}): run the same command again, or {by_hand}"
            ) from error
        if not chunk:
            return
        yield chunk


def _check_start(chunk: bytes, content_type: str, url: str, name: str, by_hand: str) -> None:
    """Proxies and login pages answer 200 with a web page; what is not the file must not end up in the cache under its name."""
    if "html" in content_type.lower() or chunk.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise UserError(
            f"{_shown(url)} answers with a web page instead of the file (a proxy, or a login page?): {by_hand}"
        )
    if name.endswith(".pt") and not chunk.startswith(_ZIP_MAGIC):
        raise UserError(
            f"{_shown(url)} is not a checkpoint (it starts with {chunk[:8]!r}): check the address, or {by_hand}"
        )


def _show_progress(name: str, before: int, after: int, total: int) -> None:
    """A running percentage on a terminal; in a log, a line per quarter of a large file."""
    if not total or log.rank() != 0:
        return
    if sys.stderr.isatty():
        end = "\n" if after >= total else ""
        print(f"\rdownload: {name} {after / total:4.0%} of {total / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)
    elif total >= _LINES_ABOVE_BYTES and int(after / total / _LINE_EVERY) > int(before / total / _LINE_EVERY):
        log.say(f"download: {name} {after / total:.0%} of {total / 1e6:.1f} MB")


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process of this machine fetch while the others (ranks that load the same weights) wait for the result."""
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can not make {folder}: {(error.strerror or str(error)).lower()}") from error
    if reason := why_not_writable(folder):
        raise UserError(f"can not write to {folder} ({reason}): name another folder with YOLOV12_CACHE_DIR")


def _shown(url: str) -> str:
    """The address without what may be a secret: a login before the host, a signature after the path."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__
