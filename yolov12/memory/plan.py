# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which blocks of a model are computed again in backward, so that a step fits into a budget at the least extra work.

A step is seen as a row of phases: first the loss, when everything that forward kept is there, then the backward of each block, last block
first. A block that keeps nothing saves its bytes from the loss on until somebody needs its output again: one of the blocks that read it, in
its own backward, or earlier, when that block is itself computed again. From then on it is there as if it had been kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Block:
    """One operation that may be computed again."""

    name: str
    kept_bytes: int
    """What is freed between forward and backward if it is."""
    cost: float
    """Of computing it once more, in any unit that is the same for all blocks."""
    inputs: tuple[int, ...]
    """Positions of the blocks whose outputs it is computed from; all are smaller than its own."""
    may_drop: bool = True
    is_input: bool = False
    """It is read in the backward of the block after it alone, made anew for it, and has no backward of its own."""


class Chunked(NamedTuple):
    """Work of the loss on as much at a time as a bound allows: of boxes with anchors."""

    whole_bytes: int
    """For all of it at once."""
    chunk_bytes: int
    """The bound."""
    counted_bytes: int
    """Of the loss phase, for what comes before or after this work and not beside it."""

    def more_bytes(self) -> int:
        """What the loss phase needs beyond what is counted there."""
        return max(min(self.whole_bytes, self.chunk_bytes) - self.counted_bytes, 0)

    def part(self, share: Fraction) -> Chunked:
        """For that share of the images."""
        return Chunked(int(self.whole_bytes * share), self.chunk_bytes, int(self.counted_bytes * share))


NO_CHUNKS = Chunked(0, 0, 0)


@dataclass(frozen=True)
class Profile:
    """A step with every block kept."""

    blocks: tuple[Block, ...]
    """In the order of forward."""
    fixed_bytes: int
    """What does not grow with the images: weights, their gradients, optimizer, EMA."""
    peaks: tuple[int, ...]
    """Largest bytes in use in each phase, `fixed_bytes` included: the loss, then the backward of the last block, and so on to the first.
    An input shares the phase of the block after it; its own is empty."""
    chunked: Chunked = NO_CHUNKS
    of_weights: tuple[int, ...] = ()
    """What of each peak, beyond `fixed_bytes`, is as large for a part of the images: casts of the weights, and their gradients so far. Empty
    if nothing is."""
    images: int = 0
    """Of the batch; 0: as many as any number of parts divides."""

    def share_of(self, parts: int) -> Fraction:
        """Of the images, what the largest of so many micro-batches has: 5 of 16 when 16 are cut into 4 and 5s (micro_batch.py)."""
        return Fraction(math.ceil(self.images / parts), self.images) if self.images else Fraction(1, parts)

    def part(self, parts: int) -> Profile:
        """The step with the largest of so many micro-batches, after another one, whose gradients are there."""
        if parts == 1:
            return self
        share = self.share_of(parts)
        of_weights = self.of_weights or (0,) * len(self.peaks)
        from_before = max(of_weights)
        return Profile(
            tuple(
                replace(block, kept_bytes=int(block.kept_bytes * share), cost=block.cost * float(share))
                for block in self.blocks
            ),
            self.fixed_bytes,
            tuple(
                self.fixed_bytes + from_before + int((peak - self.fixed_bytes - own) * share)
                for peak, own in zip(self.peaks, of_weights, strict=True)
            ),
            self.chunked.part(share),
            (from_before,) * len(of_weights),
            math.ceil(self.images * share),
        )


@dataclass(frozen=True)
class Plan:
    """What is computed again, and what that is expected to need."""

    dropped: frozenset[int]
    """Positions of the blocks that keep nothing."""
    peak_bytes: int
    parts: int = 1
    """Into how many micro-batches the batch is cut."""
    fits: bool = True

    def share(self, profile: Profile) -> float:
        """Cost of what is computed again over that of everything."""
        total = sum(block.cost for block in profile.blocks) or 1.0
        return self.cost(profile) / total

    def cost(self, profile: Profile) -> float:
        """Of what is computed again, in the unit of the profile's blocks, for the whole batch."""
        return sum(profile.blocks[i].cost for i in self.dropped)

    def words(self, profile: Profile) -> str:
        """In a line, as one side of `old -> new`."""
        inputs = sum(profile.blocks[i].is_input for i in self.dropped)
        parts = f" in {self.parts} micro-batches" if self.parts > 1 else ""
        return (
            f"{len(self.dropped) - inputs} convolutions and {inputs} inputs{parts} ({self.peak_bytes / 2**30:.2f} GiB)"
        )


def first_needed(profile: Profile, dropped: Collection[int]) -> list[int]:
    """For each block the phase in which its output must be there again."""
    last = len(profile.blocks)
    needed = [last - i for i in range(last)]  # its own backward; phase 0 is the loss
    for i in range(last - 1, -1, -1):
        block = profile.blocks[i]
        # Its inputs are read for its own backward, and where it is computed again for others.
        reads = last if block.is_input else last - i
        if i in dropped:
            reads = min(reads, needed[i])
        for source in block.inputs:
            needed[source] = min(needed[source], reads)
    return needed


def peaks(profile: Profile, dropped: Collection[int]) -> NDArray[np.int64]:
    """Largest bytes in use in each phase if these blocks keep nothing."""
    needed, last = first_needed(profile, dropped), len(profile.blocks)
    change = np.zeros(len(profile.peaks) + 1, dtype=np.int64)
    for i in dropped:
        block = profile.blocks[i]
        change[0] -= block.kept_bytes
        # An input is made for one block and gone after it; an output stays from when it is first needed until its own backward.
        change[last - i - 1 if block.is_input else needed[i]] += block.kept_bytes
    change[0] += profile.chunked.more_bytes()
    change[1] -= profile.chunked.more_bytes()
    return np.asarray(profile.peaks, dtype=np.int64) + np.cumsum(change)[:-1]


def choose(profile: Profile, budget_bytes: int, most_parts: int = 1) -> Plan:
    """The cheapest plan that was found for the budget; one with `fits=False` if there is none.

    Recomputation comes before splitting: it changes no number, while batch norm in a part of the batch sees other statistics.

    Args:
        profile: of the whole batch.
        budget_bytes: for everything in `profile.peaks`.
        most_parts: into how many micro-batches the batch may be cut, at most its images.
    """
    parts = 1
    while True:
        plan = _without_splitting(profile.part(parts), budget_bytes)
        plan = replace(plan, parts=parts)
        if plan.fits or parts >= most_parts:
            return plan
        parts = min(parts * 2, most_parts)


def everything(profile: Profile) -> Plan:
    """Every block that may be is computed again."""
    dropped = frozenset(i for i, block in enumerate(profile.blocks) if block.may_drop)
    return Plan(dropped, int(peaks(profile, dropped).max()))


def _without_splitting(profile: Profile, budget_bytes: int) -> Plan:
    """A greedy knapsack, from several beginnings until one fits."""
    candidates = {i for i, block in enumerate(profile.blocks) if block.may_drop and block.kept_bytes > 0}
    if peaks(profile, candidates)[0] > budget_bytes:
        return replace(everything(profile), fits=False)  # the loss alone does not fit
    best: tuple[bool, float, set[int]] | None = None
    for begin in [set(), *_segments(profile, candidates)]:
        dropped = _improved(profile, begin, candidates, budget_bytes)
        excess = _excess(profile, dropped, budget_bytes)
        found = (excess > 0, excess if excess > 0 else sum(profile.blocks[i].cost for i in dropped), dropped)
        if best is None or found[:2] < best[:2]:
            best = found
        if excess == 0:
            break  # they come in the order of what they drop
    assert best is not None
    peak = int(peaks(profile, best[2]).max())
    return Plan(frozenset(best[2]), peak, fits=peak <= budget_bytes)


SEGMENTS = (2, 3, 4, 6, 9, 13, 18)
"""Numbers of parts, of about equal bytes, between which a block is kept. A model whose every block is dropped is computed again as a whole
when the first backward begins, so nothing is saved there; checkpoints in between keep that to a part (Chen et al. 2016, arXiv:1604.06174)."""
MOVES_PER_ROUND = 20
"""A round looks at every block and then changes this share of them, 1 in 20: planning takes a second instead of ten."""
WINDOW = 0.3
"""Around each border, as a share of a part: the smallest block there is kept."""


def _segments(profile: Profile, candidates: Collection[int]) -> Iterator[set[int]]:
    """Everything dropped but a few blocks in between."""
    ends = np.cumsum([block.kept_bytes for block in profile.blocks])
    for segments in SEGMENTS:
        dropped, part = set(candidates), ends[-1] / segments
        for border in range(1, segments):
            near = [i for i in candidates if abs(ends[i] - border * part) <= WINDOW * part]
            if near:
                dropped.discard(min(near, key=lambda i: profile.blocks[i].kept_bytes))
        yield dropped


def _improved(profile: Profile, begin: set[int], candidates: Collection[int], budget_bytes: int) -> set[int]:
    """Drop or keep blocks, in rounds, those first that take most of what is above the budget for their cost."""
    dropped, excess = set(begin), _excess(profile, begin, budget_bytes)
    at_once = max(1, len(candidates) // MOVES_PER_ROUND)
    while excess > 0:
        values = {i: _value(profile, dropped, i, excess, budget_bytes) for i in candidates}
        moves = sorted((i for i in candidates if values[i] > 0), key=lambda i: -values[i])[:at_once]
        before = excess
        for i in moves:  # each once more, since the moves before it changed what it is worth
            after = _excess(profile, dropped ^ {i}, budget_bytes)
            if excess > 0 and after < excess:
                dropped, excess = dropped ^ {i}, after
        if excess == before:
            break
    _take_back(profile, dropped, budget_bytes, by_cost=sorted(dropped, key=lambda i: -profile.blocks[i].cost))
    return dropped


def _value(profile: Profile, dropped: set[int], i: int, excess: float, budget_bytes: int) -> float:
    """Bytes above the budget that changing this block takes away, for its cost. Keeping a block gives work back: it counts as nearly free."""
    relief = excess - _excess(profile, dropped ^ {i}, budget_bytes)
    return relief / (1e-12 if i in dropped else max(profile.blocks[i].cost, 1e-12))


def _take_back(profile: Profile, dropped: set[int], budget_bytes: int, by_cost: Sequence[int]) -> None:
    """Keep again what turned out not to be needed once others were dropped."""
    if _excess(profile, dropped, budget_bytes) > 0:
        return
    for i in by_cost:
        if _excess(profile, dropped - {i}, budget_bytes) == 0:
            dropped.remove(i)


def _excess(profile: Profile, dropped: Collection[int], budget_bytes: int) -> float:
    """Bytes above the budget, summed over the phases."""
    return float(np.maximum(peaks(profile, dropped) - budget_bytes, 0).sum())
