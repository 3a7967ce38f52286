# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an attempt at a step brings, beside the gradients that it leaves in the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Batch = dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """A whole batch's, or one part's."""

    loss: Tensor
    items: dict[str, Tensor]
    counts: Tensor | None
    """(targets, images) of this rank where parts or ranks must be added up, else None."""

    def copied(self) -> Attempt:
        """With tensors of its own, so that what made it may run again."""
        items = {name: item.clone() for name, item in self.items.items()}
        return Attempt(self.loss.clone(), items, None if self.counts is None else self.counts.clone())
