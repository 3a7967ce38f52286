# SPDX-License-Identifier: AGPL-3.0-or-later
"""What happened to a run's memory, in the order it happened: plans that changed, attempts that were repeated. The report reads it at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["plan", "retry", "split", "smaller images", "update", "validation"]
"""A plan changed; a step was repeated; its batch was cut; its images were shrunk; an update of the weights or a validation was repeated."""


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    step: int
    """Training steps of this process before it."""
    kind: Kind
    what: str
    """`old -> new` where something changed, with the reason."""


@dataclass
class History:
    """Of one process of a run."""

    steps: int = 0
    """Committed so far."""
    smaller_steps: int = 0
    """Of those, the ones whose images were made smaller (mas_data)."""
    events: list[Event] = field(default_factory=list)

    def note(self, kind: Kind, what: str) -> None:
        """Remember an event at the step that runs."""
        self.events.append(Event(self.steps, kind, what))

    def count(self, kind: Kind) -> int:
        """How many events of that kind there were."""
        return sum(event.kind == kind for event in self.events)
