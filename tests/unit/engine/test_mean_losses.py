# SPDX-License-Identifier: AGPL-3.0-or-later
"""Running means of losses: the bits of ultralytics', and few calls."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.unit.engine.counted import Calls
from yolov12.engine.mean_losses import running_means

NAMES = ("box_loss", "cls_loss", "dfl_loss")


def drawn(steps: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.rand((), generator=generator) for name in NAMES} for _ in range(steps)]


def test_mean_losses_have_the_bits_of_ultralytics_formula() -> None:
    steps = drawn(20)
    ours = expected = steps[0]
    for i, items in enumerate(steps[1:], start=1):
        ours = running_means(ours, i, items)
        expected = {name: (expected[name] * i + item) / (i + 1) for name, item in items.items()}
    assert list(ours) == list(NAMES)
    assert all(torch.equal(ours[name], expected[name]) for name in NAMES)


def test_what_a_callback_kept_of_an_earlier_step_stays_as_it_was() -> None:
    first, second, third = drawn(3)
    kept = running_means(first, 1, second)
    copies = {name: mean.clone() for name, mean in kept.items()}
    running_means(kept, 2, third)
    assert all(torch.equal(kept[name], copies[name]) for name in NAMES)


def test_more_losses_are_no_more_calls() -> None:
    first, second = drawn(2)
    with Calls() as calls:
        running_means(first, 1, second)
    assert (calls.count, calls.new_tensors) == (3, 3)
