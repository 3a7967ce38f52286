# SPDX-License-Identifier: AGPL-3.0-or-later
"""The ways a run may end early, each with the exit code that a scheduler acts on.

The message of each is complete: what happened, the value seen, what to type. The launcher prints it alone, without a traceback.
"""

from __future__ import annotations


class ExitError(Exception):
    """Base of the errors that the launcher turns into an exit code instead of a traceback."""

    exit_code = 1


class UserError(ExitError):
    """Bad input or usage. Trying again with the same input can not help."""

    exit_code = 2


class NotYetError(UserError):
    """A verb or option that design.md announces and this version does not have yet."""


class RetryableError(ExitError):
    """Something outside the input failed (disk full, a peer is gone): the same command may succeed later."""

    exit_code = 75


class DeviceFullError(RetryableError):
    """There was not enough memory on the device, whatever was tried; what memory went to is not said yet (engine/run_memory.py adds it)."""


class PeerFailedError(RetryableError):
    """Another process of the run failed, for a reason other than this one's."""


TERMINATED = 143
"""Exit code of what ended because a scheduler asked for it: 128 + SIGTERM. A training has saved a checkpoint, an export has left nothing."""
