# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a check says: a status, the value that was seen, why that matters, and what to type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

STATUSES = ("ok", "skipped", "warn", "fail")
"""From good to bad."""


@dataclass(frozen=True)
class Result:
    """One line of the report, and one entry of `--json`: its fields are a promise to programs that read it."""

    name: str
    """Of the check."""
    subject: str
    """What was looked at, where a check looks at several things: "GPU 0", a folder; else empty."""
    status: str
    """One of STATUSES."""
    value: str
    """What was seen."""
    why: str = ""
    """Why that is no good, or why nothing was looked at; of an ok one the reason behind a decision, if there is one."""
    to_type: str = ""
    """What mends it; never empty where `status` is warn or fail."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is none of {', '.join(STATUSES)}")
        if self.status in ("warn", "fail") and not (self.why and self.to_type):
            raise ValueError(f"{self.name}: a {self.status} must say why and what to type")


def ok(name: str, value: str, why: str = "", subject: str = "") -> Result:
    """Nothing to do."""
    return Result(name, subject, "ok", value, why)


def skipped(name: str, why: str, value: str = "", subject: str = "") -> Result:
    """Nothing was looked at, and why."""
    return Result(name, subject, "skipped", value, why)


def warn(name: str, value: str, why: str, to_type: str, subject: str = "") -> Result:
    """It works, but not as well as it could, or not for long."""
    return Result(name, subject, "warn", value, why, to_type)


def fail(name: str, value: str, why: str, to_type: str, subject: str = "") -> Result:
    """Something that was promised does not work here."""
    return Result(name, subject, "fail", value, why, to_type)


def worst(results: Iterable[Result]) -> str:
    """The worst status of all; what was skipped counts as ok."""
    place = max((STATUSES.index(result.status) for result in results), default=0)
    return "ok" if STATUSES[place] == "skipped" else STATUSES[place]
