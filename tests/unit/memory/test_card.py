# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated card runs out of memory when a step needs more than a neighbour left, and not before."""

from __future__ import annotations

import pytest
import torch

from yolov12.memory.card import SimulatedCard
from yolov12.memory.failure import is_out_of_memory

CPU = torch.device("cpu")


def test_what_fits_is_used_and_remembered():
    card = SimulatedCard(100)
    card.use(100)
    assert (card.needed, card.peak()) == (100, (100, 100))
    card.reset()
    assert card.peak() == (0, 0)


def test_what_does_not_fit_is_out_of_memory_as_torch_says_it():
    with pytest.raises(torch.OutOfMemoryError, match="simulated card") as caught:
        SimulatedCard(100).use(101)
    assert is_out_of_memory(caught.value)


def test_the_neighbour_takes_half_after_the_run_has_looked():
    card = SimulatedCard(100, neighbour_at=1)
    card.use(80)
    assert card.read(CPU).budget(0.0) == 100
    with pytest.raises(torch.OutOfMemoryError):
        card.use(80)
    assert card.read(CPU).budget(0.0) == 50
    card.use(50)
