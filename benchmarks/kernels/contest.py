# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several ways to do the same, what each took, and what that says of a constant of ours. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], Any]

OTHER, OURS = "torch", "ours"
"""The two ways that a row compares. Whatever else runs beside them stands in the table."""
NOISE = 0.03
"""A way that takes less by a smaller share than this is no reason to choose it."""
MOST_IN_NOTE = 3
"""Shapes that a record's note names; the log has all."""


@dataclass(frozen=True)
class Contest:
    """One shape."""

    words: str
    moved_bytes: int
    """What each way must read and write at least; 0 where that says nothing."""
    ways: Callable[[int], Mapping[str, Sequence[Call]]]
    """For a number of sets of buffers: of each way, its call on each set. OTHER and OURS are among them, or tiles and what chooses one."""
    times: int = 1
    """How often the network does this."""
    chosen: str | None = None
    """The way that our code takes, where it has a choice; it is what OURS stands for."""
    choices: tuple[str, ...] = ()
    """The ways that it chooses among."""


@dataclass(frozen=True)
class Result:
    """What the ways of a contest took, in microseconds of a call."""

    contest: Contest
    us: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)
    """Ways that could not run, each with its reason."""

    @property
    def other_us(self) -> float:
        """Of torch and its libraries."""
        return self.us[OTHER]

    @property
    def ours_us(self) -> float:
        """Of ours, as our code chooses."""
        return self.us[self.contest.chosen or OURS]

    @property
    def fastest(self) -> str | None:
        """Of the choices; the chosen one where none takes less by more than the noise. None where nothing is chosen, or that could not run."""
        chosen = self.contest.chosen
        if chosen is None or chosen not in self.us:
            return None
        best = min((name for name in self.contest.choices if name in self.us), key=lambda name: self.us[name])
        return best if self.us[best] < (1 - NOISE) * self.us[chosen] else chosen

    @property
    def lost_us(self) -> float:
        """What the choice takes longer than the fastest."""
        return self.ours_us - self.us[self.fastest] if self.fastest else 0.0

    def terabytes_per_s(self, way: str) -> float:
        """What must be moved over the time of a way; above the memory's rate where the cache helps."""
        return self.contest.moved_bytes / self.us[way] / 1e6


def line(result: Result) -> str:
    """A line of the log: every way's time, the choice and what it loses, and the rate at which ours moves bytes."""
    contest = result.contest
    parts = [f"{contest.times} x {contest.words}:"]
    parts.append(", ".join([f"{name} {us:.2f}" for name, us in result.us.items()]) + " us")
    if contest.moved_bytes and (contest.chosen or OURS) in result.us:
        parts.append(f"{result.terabytes_per_s(contest.chosen or OURS):.2f} TB/s")
    if result.fastest:
        parts.append(f"| chosen {contest.chosen}, {_verdict(result)}")
    parts += [f"| {name} FAILED: {reason}" for name, reason in result.failed.items()]
    return " ".join(parts)


def _verdict(result: Result) -> str:
    if result.fastest == result.contest.chosen:
        return "the fastest"
    return f"fastest {result.fastest}, {100 * result.lost_us / result.ours_us:.0f} % lost"


def total_us(results: Sequence[Result], way: Callable[[Result], float]) -> float:
    """Of all shapes as often as a network has them."""
    return sum(result.contest.times * way(result) for result in results)


def summary(results: Sequence[Result], beside: Sequence[str] = ()) -> str:
    """A record's note: how many shapes, at what rate, what is lost by which choices, and the totals of further ways.

    Args:
        results: of the shapes of one row.
        beside: ways that are summed too, where every shape has them.
    """
    parts = [f"{len(results)} shapes, {sum(result.contest.times for result in results)} calls"]
    moved = sum(result.contest.times * result.contest.moved_bytes for result in results)
    if moved:
        parts.append(f"{moved / total_us(results, lambda one: one.ours_us) / 1e6:.2f} TB/s")
    for way in beside:
        if all(way in result.us for result in results):
            parts.append(f"{way} {total_us(results, lambda one, way=way: one.us[way]):.1f} us")
    if any(result.contest.chosen for result in results):
        parts.append(_lost(results))
    failed = sorted({f"{name}: {reason}" for result in results for name, reason in result.failed.items()})
    return ", ".join(parts) + "".join(f"; could not run: {one}" for one in failed)


def _lost(results: Sequence[Result]) -> str:
    wrong = [result for result in results if result.lost_us > 0]
    ours, lost = total_us(results, lambda one: one.ours_us), total_us(results, lambda one: one.lost_us)
    words = f"choices lose {lost:.1f} us ({100 * lost / ours:.1f} %), in {len(wrong)} shapes"
    worst = sorted(wrong, key=lambda one: one.contest.times * one.lost_us, reverse=True)[:MOST_IN_NOTE]
    named = [f"{one.contest.words} took {one.contest.chosen}, {_verdict(one)}" for one in worst]
    return words + (f": {'; '.join(named)}" if named else "")


def largest_before(results: Mapping[int, Result]) -> int | None:
    """Up to which size ours takes no more than the other, at that and at every smaller one; None where not at the smallest.

    Args:
        results: by size.
    """
    best = None
    for size in sorted(results):
        if results[size].ours_us > results[size].other_us * (1 + NOISE):
            break
        best = size
    return best
