# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which rank makes the others wait, told when it does so for a while."""

from __future__ import annotations

from collections.abc import Sequence

SLOWER = 1.2
"""Times the median."""
CHECKS = 3
"""In a row, with the same rank the slowest."""


class Stragglers:
    """Watches the ranks' own times for a step, without what they waited for each other."""

    def __init__(self) -> None:
        self._rank, self._checks = -1, 0

    def look(self, own_ms: Sequence[float]) -> str | None:
        """A line if one rank has been slow for long enough, once for each time that it becomes so.

        Args:
            own_ms: of each rank, a mean over the last steps.
        """
        median = sorted(own_ms)[(len(own_ms) - 1) // 2]
        slowest = max(range(len(own_ms)), key=own_ms.__getitem__)
        is_slow = own_ms[slowest] > SLOWER * median
        self._checks = self._checks + 1 if is_slow and slowest == self._rank else int(is_slow)
        self._rank = slowest
        if self._checks != CHECKS:
            return None
        return (
            f"distributed: the others wait for rank {slowest}: {own_ms[slowest]:.0f} ms for a step and its data, "
            f"where the median is {median:.0f} ms"
        )
