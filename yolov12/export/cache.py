# SPDX-License-Identifier: AGPL-3.0-or-later
"""Engines that were built here, by what they depend on; and which plans are ours at all (promise 9).

An entry is two files: NAME.plan, and NAME.json with its key, its length and its hash, written last, so that an entry is whole or absent. NAME is
a hash of the key. Packages of torch (aoti.py), the ONNX graphs that engines are built from (onnx_key.py) and what the gate said of a file
(verdict.py) lie there in the same way. `made.txt`
remembers the hash of every plan that was built here, also when its entry is gone: an exported engine outlives it.
Beside them lie TensorRT's timings, one file for each builder, driver and GPU (engine.py), which a build begins with and writes again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from yolov12.errors import ExitError
from yolov12.export.engine_file import digest
from yolov12.export.lock import held, held_at_once
from yolov12.log import say, warn
from yolov12.mistakes import sentence
from yolov12.wholefile import replacing

LIMIT_BYTES = 8 * 2**30
"""What all plans and timings together may take; those that were used longest ago go first."""
LEDGER = "made.txt"
GRAPH = "graph"
"""What `get_or_build` is told of an ONNX graph, which is kept as engines are and needs nobody's trust: nothing of it is native code."""
VERDICT = "verdict"
"""The same, of what the gate said of a file."""
ALSO = "also.txt"
"""By what else entries are asked for: a line for each such key, its name and that of the entry. Lines go with their entries, see `prune`."""
_made: set[tuple[Path, str]] = set()
"""Folder and hash of what this process has built: that is ours also where the ledger's disk is full, and an export runs it to compare it."""
NAME = re.compile(r"[0-9a-f]{32}")
"""Of entries, see `name_of`."""
NOTE = re.compile(r"[0-9a-f]{0,32}( [0-9a-f]{0,32})?")
"""A line of `ALSO`, or what a full disk has left of one."""
TIMING = re.compile(r"timing-[0-9a-f]{32}\.cache")
"""Of files with timings, see `timing_file`."""

Key = Mapping[str, str]
"""All that an engine depends on: name -> value."""


@dataclass(frozen=True)
class Entry:
    """One engine in the cache."""

    name: str
    key: Key
    sha256: str
    plan_bytes: int
    used_s: float
    """When it was last loaded or made: seconds since the epoch."""


@dataclass(frozen=True)
class Timing:
    """What TensorRT measured while it built: engines after that take less time to build, and are the same to who uses them."""

    name: str
    """Of the file."""
    file_bytes: int
    used_s: float
    """When it was last written, which every build does: seconds since the epoch."""


def get_or_build(
    folder: Path, key: Key, build: Callable[[], bytes], limit_bytes: int = LIMIT_BYTES, what: str = "engine"
) -> tuple[bytes, str]:
    """The plan for a key, and where it came from. Processes that want the same one build it once.

    A cache that can not be written to, since its disk is full or why ever, is said, and the engine is built all the same. `what` is its name then.
    """
    name, done = name_of(key), "reached" if what == VERDICT else "built"
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / f"{name}.lock", f"this {what} is being {done}"))
        except OSError as error:
            warn(f"{what} cache: no lock, so another process may build the same: {_reason(error)}")
        plan, reason = load(folder, key)
        if plan is not None:
            return plan, f"from the cache, {folder / name}.plan"
        if reason:
            say(f"{what} cache: {done} again: {reason}")
        plan = build()
        _made.add((folder, digest(plan)))
        try:
            store(folder, key, plan)
        except (OSError, ExitError) as error:
            warn(f"{what} cache: this {what} is not kept, and is {done} again the next time: {_reason(error)}")
            if what not in (GRAPH, VERDICT) and not _is_listed(folder, plan):
                warn(
                    f"{what} cache: nor can it be noted that it was built here: it loads with YOLOV12_TRUST_WEIGHTS=1 alone"
                )
            for suffix in ("json", "plan"):  # half an entry, if any: a whole one would have been loaded
                with suppress(OSError):
                    (folder / f"{name}.{suffix}").unlink()
            return plan, "built"
        try:
            sweep(folder)
            prune(folder, limit_bytes, keep=name)
        except OSError as error:
            warn(f"{what} cache: what was used longest ago can not be removed: {_reason(error)}")
        return plan, "built"


def forget(folder: Path, key: Key) -> None:
    """Remove the entry of a key, if there is one, unless somebody makes or loads it."""
    if (folder / f"{name_of(key)}.json").is_file():
        _removed(folder, name_of(key))


def keep_timings(path: Path, content: bytes) -> None:
    """Write timings for the next build; where that fails it is said, and no more."""
    try:
        with replacing(path) as part:
            part.write_bytes(content)
    except (OSError, ExitError) as error:
        warn(f"engine cache: TensorRT's timings are not kept, so the next build takes as long: {_reason(error)}")


def name_of(key: Key) -> str:
    """What the files of an entry are called."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]


def load(folder: Path, key: Key) -> tuple[bytes | None, str]:
    """The plan for a key after its hash was checked; else None, and why if there is an entry."""
    name = name_of(key)
    record = folder / f"{name}.json"
    if not record.is_file():
        return None, ""
    try:
        entry = _read(record)
        plan = (folder / f"{name}.plan").read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{record} can not be read ({type(error).__name__}: {error})"
    if dict(entry.key) != dict(key):
        return None, f"{record} is of another engine"
    if problem := _problem(folder, entry, plan):
        return None, f"{folder / name}.plan {problem}"
    with suppress(OSError):  # read-only, or another user's: it counts as used when it was made
        os.utime(record)
    return plan, ""


def store(folder: Path, key: Key, plan: bytes) -> None:
    """Keep a plan, and remember that it is ours.

    Raises:
        OSError, UserError, RetryableError: it can not be written.
    """
    name = name_of(key)
    remember(folder, plan)
    with replacing(folder / f"{name}.plan") as part:
        part.write_bytes(plan)
    record = {"key": dict(key), "sha256": digest(plan), "bytes": len(plan), "made": time.strftime("%Y-%m-%dT%H:%M:%S")}
    with replacing(folder / f"{name}.json") as part:
        part.write_text(json.dumps(record, indent=1))


def remember(folder: Path, plan: bytes) -> None:
    """Note that this plan was built here. One short line in append mode is whole whoever else writes."""
    if not _is_listed(folder, plan):
        _append(folder / LEDGER, digest(plan))


def store_also(folder: Path, also: Key, key: Key) -> None:
    """Let the entry of `key` be found by another key too, which is known with less work; if that can not be noted, it is found by its own alone."""
    with suppress(OSError):
        _append(folder / ALSO, f"{name_of(also)} {name_of(key)}")


def load_also(folder: Path, also: Key) -> bytes | None:
    """The plan of the entry that was noted for this key, looked at as by `load`; None if there is none. Parts that both keys have must be equal."""
    try:
        lines = [line.split() for line in (folder / ALSO).read_text().splitlines()]
        name = next(line[1] for line in reversed(lines) if len(line) == 2 and line[0] == name_of(also))
        if not NAME.fullmatch(name):
            return None
        key = _read(folder / f"{name}.json").key
    except (OSError, StopIteration, ValueError, KeyError, TypeError):  # none, or what `load` will tell of
        return None
    return None if any(key.get(part, value) != value for part, value in also.items()) else load(folder, key)[0]


def _append(file: Path, line: str) -> None:
    with file.open("a") as lines:
        lines.write(f"\n{line}\n")  # behind what a full disk may have cut off


def is_ours(folder: Path, plan: bytes) -> bool:
    """Whether this plan was built here."""
    return (folder, digest(plan)) in _made or _is_listed(folder, plan)


def _is_listed(folder: Path, plan: bytes) -> bool:
    ledger = folder / LEDGER
    return ledger.is_file() and digest(plan) in ledger.read_text().split()


def entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """All entries, the one used longest ago first; and a line for each record that can not be read."""
    found, unreadable = [], []
    for record in folder.glob("*.json"):
        if not NAME.fullmatch(record.stem):  # the user's own, as in `sweep`
            continue
        try:
            found.append(_read(record))
        except (OSError, ValueError, KeyError, TypeError) as error:
            unreadable.append(f"{record}: {type(error).__name__}: {error}")
    return sorted(found, key=lambda entry: entry.used_s), unreadable


def verify(folder: Path) -> list[str]:
    """A line for each entry that would be built again, with the reason."""
    found, problems = entries(folder)
    for entry in found:
        path = folder / f"{entry.name}.plan"
        try:
            problem = _problem(folder, entry, path.read_bytes())
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
        if problem:
            problems.append(f"{path} {problem}")
    return problems


def timing_file(folder: Path, measured_by: Key) -> Path:
    """Where the timings lie that a builder may begin with.

    Args:
        measured_by: all that they depend on.
    """
    return folder / f"timing-{name_of(measured_by)}.cache"


def timings(folder: Path) -> list[Timing]:
    """All timings, those used longest ago first."""
    found = []
    for path in folder.glob("timing-*.cache"):
        with suppress(FileNotFoundError):  # another process prunes
            status = path.stat()
            found += [Timing(path.name, status.st_size, status.st_mtime)] if TIMING.fullmatch(path.name) else []
    return sorted(found, key=lambda timing: timing.used_s)


def prune(folder: Path, limit_bytes: int, keep: str = "") -> list[Entry | Timing]:
    """Remove what was used longest ago until plans and timings take no more than `limit_bytes`; what is being built or loaded stays.

    Timings need no lock: who builds has read them before, and writes them anew.

    Returns:
        What was removed.
    """
    found: list[Entry | Timing] = sorted([*entries(folder)[0], *timings(folder)], key=lambda one: one.used_s)
    total = sum(map(size, found))
    removed = []
    for one in found:
        if total <= limit_bytes:
            break
        if one.name == keep:
            continue
        if isinstance(one, Timing):
            (folder / one.name).unlink(missing_ok=True)
        elif not _removed(folder, one.name):
            continue
        total -= size(one)
        removed.append(one)
    _forget_notes(folder)
    return removed


def _forget_notes(folder: Path) -> None:
    """Remove the lines of `ALSO` that lead to no entry any more, unless it is a file of the user's.

    One that another process writes just now may be lost: its entry is found by its own key.
    """
    notes = folder / ALSO
    with suppress(OSError, ExitError):  # none, read-only, or no room: it is no more than longer than need be
        lines = [line for line in notes.read_text().splitlines() if line]
        if not all(map(NOTE.fullmatch, lines)):
            return
        last = {line.partition(" ")[0]: line for line in lines}
        kept = [line for line in last.values() if (folder / f"{line.partition(' ')[2]}.json").is_file()]
        if not kept:
            notes.unlink()
        elif kept != lines:
            with replacing(notes) as part:
                part.write_text("".join(f"{line}\n" for line in kept))


def size(one: Entry | Timing) -> int:
    """What it takes on the disk, in bytes."""
    return one.file_bytes if isinstance(one, Timing) else one.plan_bytes


def sweep(folder: Path) -> list[str]:
    """Remove what is no entry and would be counted by nobody: plans whose record is not there or can not be read. What is being built stays.

    Only what is named as entries are: the folder may be one in which users keep files of their own.

    Returns:
        The names of what was removed.
    """
    known = {entry.name for entry in entries(folder)[0]}
    strays = {path.stem for suffix in ("json", "plan") for path in folder.glob(f"*.{suffix}")} - known
    return [name for name in sorted(strays) if NAME.fullmatch(name) and _removed(folder, name)]


def _removed(folder: Path, name: str) -> bool:
    """Remove the files of a name, unless somebody builds or loads it."""
    with held_at_once(folder / f"{name}.lock") as is_free:
        for suffix in ("json", "plan", "lock") if is_free else ():  # the record first: without it there is no entry
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        return is_free


def _reason(error: Exception) -> str:
    """Why something could not be written, without the advice to type the command again: it goes on."""
    return sentence(error).partition("; ")[0]


def _read(record: Path) -> Entry:
    found = json.loads(record.read_text())
    return Entry(record.stem, dict(found["key"]), str(found["sha256"]), int(found["bytes"]), record.stat().st_mtime)


def _problem(folder: Path, entry: Entry, plan: bytes) -> str:
    """Why a plan is not what was stored; "" if it is."""
    if len(plan) != entry.plan_bytes:
        return f"has {len(plan)} bytes and had {entry.plan_bytes}"
    if digest(plan) != entry.sha256:
        return "has changed since it was stored"
    return "" if is_ours(folder, plan) else "was not made here"
