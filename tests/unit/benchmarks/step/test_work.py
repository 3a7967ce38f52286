# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations and bytes, of operators small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.step.work import Counting, bytes_of


def test_a_product_and_its_bytes_are_counted_in_the_phase_that_is_open():
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    phases = iter(["forward", "update"])
    with Counting(lambda: next(phases)) as counting:
        made = left @ right
        made.add_(1)
    assert dict(counting.work.operations) == {"forward": 2 * 2 * 3 * 5}
    assert dict(counting.work.moved) == {"forward": 4 * (6 + 15 + 10), "update": 4 * (10 + 10)}


def test_views_and_memory_that_nobody_wrote_move_nothing():
    x = torch.ones(4, 4)
    with Counting(lambda: "") as counting:
        x.t()[1:].reshape(-1, 2)[0].unsqueeze(0).expand(5, -1)
        torch.empty(1000)
        x.detach()
    assert sum(counting.work.moved.values()) == 2 * 4 * 12  # reshape copies what is left of the transposed matrix


def test_a_tensor_that_repeats_its_values_counts_with_what_it_has():
    assert bytes_of([torch.ones(1).expand(1000), torch.ones(2), "no tensor"]) == 4 + 8


@pytest.mark.parametrize("groups", [1, 4])
def test_the_gradient_of_a_convolution_is_twice_its_forward_also_in_groups(groups):
    convolution = nn.Conv2d(4, 8, 3, groups=groups, bias=False)
    x = torch.ones(2, 4, 6, 6, requires_grad=True)
    phase = "forward"
    with Counting(lambda: phase) as counting:
        made = convolution(x)
        phase = "backward"
        made.sum().backward()
    forward = 2 * 2 * 8 * 4 * 4 * (4 // groups) * 9
    assert dict(counting.work.operations) == {"forward": forward, "backward": 2 * forward}


def test_the_gradient_of_a_transposed_convolution_is_twice_its_forward():
    convolution = nn.ConvTranspose2d(4, 8, 2, stride=2, bias=False)
    phase = "forward"
    with Counting(lambda: phase) as counting:
        made = convolution(torch.ones(1, 4, 5, 5, requires_grad=True))
        phase = "backward"
        made.sum().backward()
    assert counting.work.operations["forward"] == 2 * 4 * 25 * 8 * 4
    assert counting.work.operations["backward"] == 2 * counting.work.operations["forward"]
