# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the control groups of this process allow: files of version 2 or 1 (the kernel's admin-guide), in its own group and in each above it.

No limit, and no file that could say so, are two answers: the second is a reason, which the report shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")

Limit = tuple[float | None, str]
"""(the limit, or None; why it is not known, empty if it is)."""


def cores(root: Path = ROOT, own: Path = OWN) -> Limit:
    """Cores' worth of time: cpu.max, or cpu.cfs_quota_us by cpu.cfs_period_us."""
    return _least("cpu", _quota, root, own)


def processes(root: Path = ROOT, own: Path = OWN) -> Limit:
    """How many processes and threads: pids.max, which both versions have."""
    return _least("pids", lambda group: _number(_read(group / "pids.max")), root, own)


def _least(controller: str, read: Callable[[Path], float | None], root: Path, own: Path) -> Limit:
    groups = list(_groups(controller, root, own))
    found = [limit for group in groups if (limit := read(group)) is not None]
    if not found and not any(map(_is_the_machine, groups)):
        return None, f"{root} has no file of the {controller} controller"
    least = min(found, default=math.inf)
    return (None if least == math.inf else least), ""


def _groups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's group and of those above it that are seen here: in a container often only its own, as the top."""
    top = root / controller if (root / controller).is_dir() else root  # version 1 has a tree for each
    wanted = controller if top != root else ""
    lines = (line.split(":", 2) for line in _read(own).splitlines() if line.count(":") >= 2)
    path = next((path for _, controllers, path in lines if wanted in controllers.split(",")), "/")
    parts = [] if ".." in path else path.strip("/").split("/")  # ".." is above what this container sees
    for count in range(len(parts), 0, -1):
        if (group := top.joinpath(*parts[:count])).is_dir() and group != top:
            yield group
    yield top


def _is_the_machine(group: Path) -> bool:
    """Whether it is the group of the whole machine, which has no limits: version 1 marks it by one file, version 2 by the lack of one."""
    is_top_of_2 = (group / "cgroup.controllers").is_file() and not (group / "cgroup.events").exists()
    return is_top_of_2 or (group / "cgroup.sane_behavior").exists()


def _quota(group: Path) -> float | None:
    """inf: no limit; None: there is no such file."""
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    time, span = _number(quota), _number(period)
    return time if time is None or time == math.inf else (time / span if span else None)


def _number(text: str) -> float | None:
    """ "max" and -1 are no limit."""
    text = text.strip()
    return math.inf if text in ("max", "-1") else (int(text) if text.isdigit() else None)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
