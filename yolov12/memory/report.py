# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is told of a run's memory: one row of memory.csv for each epoch, and a few lines at the end. Reads no device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from yolov12.memory.history import Event

SHOWN_PHASES = ("forward", "loss", "backward", "update", "validation")
SHOWN_EVENTS = 8
"""Lines of events at the end of a run; each was said when it happened."""


@dataclass(frozen=True)
class Epoch:
    """A row of memory.csv. Sizes are None where nobody counts memory, as on the CPU."""

    epoch: int
    """From 1, as in results.csv."""
    peak_allocated_gib: float | None
    peak_reserved_so_far_gib: float | None
    """Held by the allocator at most since the run began."""
    step_peaks_std_gib: float | None
    repeated_steps: int
    """Attempts that were dropped."""
    plan_changes: int
    micro_batches: int
    """The most that a batch was cut into."""
    convolutions_computed_again: int
    """In backward, under the plan at the epoch's end."""
    inputs_rebuilt: int
    share_of_forward_computed_again: float
    """Mean over the steps: what is computed again over what forward costs (Profile.blocks[i].cost)."""
    steps_on_smaller_images: int = 0
    """By mas_data."""
    recomputed_ms_a_step: float | None = None
    """Mean over the steps since the first ones were measured: what computing again took, by those measurements."""
    peak_forward_gib: float | None = None
    """In use at most in this phase of a step, and so on."""
    peak_loss_gib: float | None = None
    peak_backward_gib: float | None = None
    peak_update_gib: float | None = None
    peak_validation_gib: float | None = None


@dataclass(frozen=True)
class Summary:
    """A whole run on one rank. Sizes are bytes."""

    rank: int
    phases: dict[str, int]
    """Phase -> most that was in use; empty where nobody counts memory."""
    reserved: int
    mean: float
    """Of the steps' peaks."""
    std: float
    share: float
    """Of forward that was computed again, mean over the steps."""
    events: tuple[Event, ...]
    recomputed_ms: float | None = None
    """The same in milliseconds a step; None if nothing was measured."""
    smaller_steps: int = 0
    """On smaller images than were asked for."""

    @property
    def peak(self) -> int:
        return max(self.phases.values(), default=0)


def header() -> str:
    """The first line of memory.csv."""
    return ",".join(column.name for column in fields(Epoch)) + "\n"


def row(epoch: Epoch) -> str:
    """A line of memory.csv; unknown sizes are empty."""
    return ",".join("" if value is None else f"{value:.6g}" for value in astuple(epoch)) + "\n"


def tells_something(epoch: Epoch) -> bool:
    """Whether a row is worth writing: memory was counted, or something happened or was computed again."""
    happened = epoch.repeated_steps or epoch.plan_changes or epoch.steps_on_smaller_images or epoch.micro_batches > 1
    return epoch.peak_allocated_gib is not None or bool(happened or epoch.share_of_forward_computed_again)


def worst(ranks: Sequence[Epoch]) -> Epoch:
    """One row for all ranks: sizes of the one that needed most, the most work, and the sum of plan changes.

    All ranks repeat a step together, so repeated steps are not added up.
    """
    tightest = max(ranks, key=lambda rank: rank.peak_allocated_gib or 0.0)
    most = {column.name: _most(getattr(rank, column.name) for rank in ranks) for column in fields(Epoch)}
    return Epoch(
        **most
        | {
            "step_peaks_std_gib": tightest.step_peaks_std_gib,
            "plan_changes": sum(rank.plan_changes for rank in ranks),
        }
    )


def _most(values: Iterable[Any]) -> Any:
    """The largest of those that are known."""
    return max((value for value in values if value is not None), default=None)


def lines(ranks: Sequence[Summary]) -> list[str]:
    """For the log, at the end of training: nothing where nothing was measured and nothing happened."""
    return [f"memory: {line}" for line in (*_peaks(ranks), *_work(ranks))] + [*_events(ranks)]


def _peaks(ranks: Sequence[Summary]) -> Iterator[str]:
    tightest = max(ranks, key=lambda rank: rank.peak)
    if not tightest.peak:
        return
    shown = ", ".join(f"{phase} {_gib(tightest.phases[phase])}" for phase in SHOWN_PHASES if phase in tightest.phases)
    which = ""
    if len(ranks) > 1:
        least = min(ranks, key=lambda rank: rank.peak)
        which = f" on rank {tightest.rank} of {len(ranks)} (rank {least.rank}, the least: {_gib(least.peak)})"
    yield (
        f"at most {_gib(tightest.peak)} GiB in use and {_gib(tightest.reserved)} held{which}; {shown}; "
        f"a step's peak {_gib(tightest.mean)} GiB, standard deviation {_gib(tightest.std)}"
    )


def _work(ranks: Sequence[Summary]) -> Iterator[str]:
    repeated = max(_count(rank, "retry") for rank in ranks)
    changes = sum(_count(rank, "plan") for rank in ranks)
    share = max(rank.share for rank in ranks)
    told = []
    if repeated:
        told.append(
            f"{repeated} attempt{'s' * (repeated > 1)} at a step ran out of memory and {'were' if repeated > 1 else 'was'} repeated"
        )
    if changes:
        told.append(f"the plan changed {changes} time{'s' * (changes > 1)}")
    if smaller := max(rank.smaller_steps for rank in ranks):
        told.append(f"{smaller} step{'s' * (smaller > 1)} ran on smaller images than you asked for (mas_data=1)")
    if share:
        ms = _most(rank.recomputed_ms for rank in ranks)
        took = "" if ms is None else f", about {ms:.1f} ms a step"
        told.append(f"on average {100 * share:.0f} % of what forward costs was computed again in backward{took}")
    if told:
        yield "; ".join(told)


def _events(ranks: Sequence[Summary]) -> Iterator[str]:
    """What changed, in order. That a step was repeated is counted above; what followed from it stands here."""
    found = [(event, rank.rank) for rank in ranks for event in rank.events if event.kind != "retry"]
    found.sort(key=lambda one: one[0].step)  # those of one step stay in the order in which they happened
    for event, rank in found[:SHOWN_EVENTS]:
        where = f", rank {rank}" if len(ranks) > 1 else ""
        # An update and a validation come after the step that was counted last; all else belongs to the one after it.
        step = event.step + (event.kind not in ("update", "validation"))
        yield f"memory:   step {step}{where}: {event.what}"
    if len(found) > SHOWN_EVENTS:
        yield f"memory:   and {len(found) - SHOWN_EVENTS} more; memory.csv counts them by epoch"


def _count(rank: Summary, kind: str) -> int:
    return sum(event.kind == kind for event in rank.events)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
