# SPDX-License-Identifier: AGPL-3.0-or-later
"""How large the loss scale of fp16 should be, from what each layer's gradients looked like: functions of device tensors that never wait.

All sizes are in bits, which are base-2 logarithms: a scale of 2**e is `e`, and layer i's largest gradient, unscaled, is m_i = log2(max |g_i|).
"Layer" means one parameter tensor. docs/precision.md has the formulas and why they are as they are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_FP16 = math.log2(torch.finfo(torch.float16).max)
"""Just below 16: from here on fp16 says inf."""
SMALLEST_FP16 = math.log2(torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps)
"""-24: half of it and less is zero in fp16."""
HEADROOM = 1.0
"""What the loudest layer stays below the largest number, beyond what its own variance asks for."""
DEVIATIONS = 3.0
"""How many standard deviations of m_i are expected to be possible."""
RESOLUTION = 20.0
"""What the quietest layer's largest gradient stands above the smallest number, as far as the loudest allows."""
MEMORY_STEPS = 50
"""Updates over which means and variances are taken."""
RISE_STEPS = 4
"""The same for a mean that rises: too small a scale costs little, an overflow costs an update."""
LARGEST_CHANGE = 8.0
"""What counts of a change of m_i from one update to the next: a jump is not noise."""
FIRST_VARIANCE = 1.0
"""In bits squared, of a layer that was seen once."""
LONGEST_DROP = 8.0
"""Largest cut of the scale after one skipped update; the cuts of skipped updates in a row are 1, 2, 4, 8, 8, ... bits."""
SOON = 16
"""A second gradient of NaN within so many updates of the first is taken for an overflow."""
LOWEST, HIGHEST = -24.0, 40.0
"""Bounds of the scale. Outside them something else than the scale is wrong, and fp32 must still hold the scaled loss."""


class Layers(NamedTuple):
    """Running statistics of m_i, one number per layer; NaN until the layer's first gradient that is neither zero nor inf nor NaN."""

    mean: Tensor
    variance: Tensor
    latest: Tensor


class Caution(NamedTuple):
    """What overflows have taught, as scalars on the device."""

    margin: Tensor
    """Bits kept free because of overflows that the statistics did not foresee, as those of gradients between the layers."""
    skipped: Tensor
    """Updates in a row that were just skipped."""
    since: Tensor
    """Updates taken since the last one that was skipped."""


def unseen_layers(count: int, device: torch.device) -> Layers:
    """Statistics before the first update."""
    nothing = torch.full((count,), math.nan, device=device)
    return Layers(nothing, torch.full_like(nothing, FIRST_VARIANCE), nothing)


def no_caution(device: torch.device) -> Caution:
    """Before the first overflow."""
    return Caution(*torch.zeros(3, device=device).unbind())


def observe(layers: Layers, largest: Tensor) -> Layers:
    """The statistics after one more update.

    Args:
        layers: those before.
        largest: max |g_i| of each layer, unscaled, shape (layers,). Zero, inf and NaN say nothing of a layer's size and change nothing.
    """
    bits = largest.log2()
    seen, first = bits.isfinite(), layers.mean.isnan()
    off, change = bits - layers.mean, (bits - layers.latest).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
    mean = layers.mean + torch.where(off > 0, off / RISE_STEPS, off / MEMORY_STEPS)
    variance = layers.variance + (change.square() / 2 - layers.variance) / MEMORY_STEPS
    return Layers(
        torch.where(seen, torch.where(first, bits, mean), layers.mean),
        torch.where(seen & ~first, variance, layers.variance),
        torch.where(seen, bits, layers.latest),
    )


def loudest(layers: Layers) -> Tensor:
    """The largest m that the next update may show; -inf while no layer was seen."""
    expected = torch.maximum(layers.mean + DEVIATIONS * layers.variance.sqrt(), layers.latest)
    return expected.nan_to_num(nan=-math.inf).amax()


def quietest(layers: Layers) -> Tensor:
    """The smallest mean m; inf while no layer was seen."""
    return layers.mean.nan_to_num(nan=math.inf).amin()


def next_scale(
    scale: Tensor,
    usual: float,
    loud: Tensor,
    quiet: Tensor,
    overflow: Tensor,
    is_nan_only: Tensor,
    caution: Caution,
    interval: int,
) -> tuple[Tensor, Caution]:
    """The scale of the next update, in bits, a whole number.

    Args:
        scale: that of this update, in bits.
        usual: where the scale stands when nothing asks for another.
        loud: `loudest` of all layers after this update.
        quiet: `quietest` of them.
        overflow: whether this update had inf or NaN and was skipped.
        is_nan_only: whether it had NaN in every layer, as after a loss of NaN, which no scale can help.
        caution: as this function returned it for the update before.
        interval: updates without overflow after which one bit of margin is given back.
    """
    safe = LARGEST_FP16 - HEADROOM - loud
    # Half of a scale that overflowed is the largest that may be safe. What the statistics would allow beyond that becomes margin, once for
    # a row of skipped updates. A lone NaN teaches nothing; the same again soon after may well be an overflow.
    teaches = overflow & (caution.skipped == 0) & safe.isfinite() & (~is_nan_only | (caution.since < SOON))
    learnt = torch.maximum(caution.margin, safe - (scale - 1))
    margin = torch.where(
        teaches, learnt, torch.where(overflow, caution.margin, (caution.margin - 1 / interval).clamp(min=0))
    )
    resolving = SMALLEST_FP16 + RESOLUTION - quiet
    wanted = torch.minimum(safe - margin, resolving.clamp(min=usual))
    cut = torch.exp2(caution.skipped).clamp(max=LONGEST_DROP)
    after = torch.minimum(torch.where(overflow, scale - cut, scale + 1), wanted)
    skipped = torch.where(overflow, caution.skipped + 1, 0)
    since = torch.where(overflow, 0, caution.since + 1)
    return after.floor().clamp(LOWEST, HIGHEST), Caution(margin, skipped, since)


def power_of_two(bits: Tensor) -> Tensor:
    """2**bits to the bit, for whole numbers within `LOWEST` and `HIGHEST`: the exponent field of a float, since exp2 may round on a GPU."""
    return ((bits.to(torch.int32) + 127) << 23).view(torch.float32)


def whole_bits(scale: Tensor) -> Tensor:
    """floor(log2(scale)), exactly, as a float."""
    return (torch.frexp(scale).exponent - 1).float()
