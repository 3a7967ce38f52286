# SPDX-License-Identifier: AGPL-3.0-or-later
"""What ends a command with exit code 2."""


class UsageError(Exception):
    """Bad input or usage; the message says what to type."""
