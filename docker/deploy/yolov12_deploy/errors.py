# SPDX-License-Identifier: AGPL-3.0-or-later
"""What ends a command with exit code 2."""

from __future__ import annotations

from pathlib import Path


class UsageError(Exception):
    """Bad input or usage; the message says what to type."""


def not_there(said: str) -> UsageError:
    """`said` of a path that leads nowhere, with where it was looked for: in a container mostly nothing, or another folder, is mounted there."""
    return UsageError(f"{said} (looked for from {Path.cwd()}; a container sees only what docker run -v mounts)")
