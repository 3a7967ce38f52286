# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m benchmarks keep`: the log of a session on some machine becomes a record that docs can link, without what belongs to the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks import record, system
from benchmarks.errors import BenchmarkError

NAME = re.compile(r"[A-Za-z0-9][\w-]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
MODE = 0o644


def keep(
    log: Path, name: str, what: str, *, records: Path, date: str, device: str, commit: str, hosts: Iterable[str] = ()
) -> Path:
    """Write the record and return its path: a line that says what was run, where and at which commit, then the log as a terminal shows it.

    `<records>/<day>-<device>/<name>.log`, with `-2`, `-3`, ... for further ones of a day; nothing is overwritten.

    Args:
        log: to be read.
        name: of the record, without an end.
        what: was run, in words or as a command.
        records: the folder of records.
        date: ISO, of the run.
        device: it ran on, as records have it: `nvidia-h200`.
        commit: that was run.
        hosts: names of the machine, which are left out as this one's is.

    Raises:
        BenchmarkError: there is nothing to keep, or it can not be called or said so.
    """
    name = name.removesuffix(".log")
    if not NAME.fullmatch(name):
        raise BenchmarkError(f"NAME {name!r}: type letters, digits, - and _, such as kernels_tests")
    if "\n" in what or not (words := shown(what, hosts)):
        raise BenchmarkError(f"WHAT {what!r}: type in one line what was run, such as 'pytest tests/gpu/test_stem.py'")
    try:
        raw = log.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"LOG {log}: {(error.strerror or str(error)).lower()}") from error
    lines = shown(raw.decode(errors="replace"), hosts)
    if not lines:
        raise BenchmarkError(f"LOG {log}: shows nothing, so there is nothing to keep")
    first = "# " + ", ".join((words[0], device, f"at {commit}"))
    path = record.claim(records, date, device, name, reduced=False).with_suffix(".log")
    path.write_text("\n".join([first, *lines]) + "\n", encoding="utf-8")
    path.chmod(MODE)  # whatever it was, and whatever is asked for new files here
    return path


def shown(text: str, hosts: Iterable[str] = ()) -> list[str]:
    """Lines as a terminal shows them in the end, without the machine's paths and names, and without empty lines at both ends."""
    states = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    lines = [_CONTROL.sub("", system.scrub(state, hosts)).rstrip() for state in states]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines
