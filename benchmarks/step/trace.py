# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the events of a Chrome trace, as torch.profiler writes it, to what a step spends where. Pure: lists and numbers in, numbers out.

The trace has marks, each where a phase of the step begins (phases.py). A phase lasts until the next mark, on the host's clock. A kernel belongs to
the phase in which the host launched it, whenever it runs: the two are linked by a correlation number. Backward is launched by a thread of its own,
so the phase is found by time, not by thread. Our loader's threads work beside the step: what they launch belongs to "augment".
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.step.kinds import kind_of

MARK = "step: "
"""How the name of a mark, and of a range in another thread, begins."""

DATA = "data wait"
UPLOAD = "host to device"
AUGMENT = "augment"
BEFORE = "plan, snapshot"
FORWARD = "forward"
LOSS = "loss and its gradient"
BACKWARD = "backward"
REDUCE = "reduce"
UPDATE = "optimizer, EMA"
PHASES = (DATA, UPLOAD, AUGMENT, BEFORE, FORWARD, LOSS, BACKWARD, REDUCE, UPDATE)
"""In the order of the table. A step begins with `DATA`."""
DRAIN = "drain"
"""Marks the end of the last step on the host, where it begins to wait for the device."""
END = "end"

_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_CALLS = {"cuda_runtime", "cuda_driver"}
_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch")
_TRANSFERS = ("cudaMemcpy", "cudaMemset", "cuMemcpy", "cuMemset")
_BLOCKING = ("cudaMemcpy", "cudaMemset", "cudaMemcpy2D")
"""Without "Async" in their names, these wait too."""


@dataclass(frozen=True)
class Spent:
    """Milliseconds of a phase in one step."""

    host_ms: float
    device_ms: float
    """Of the kernels, copies and fills that the host launched in it, added up."""


@dataclass(frozen=True)
class Profile:
    """One step, as the mean of those in the trace."""

    steps: int
    wall_ms: float
    busy_ms: float
    """While the device ran anything at all; 0 without one."""
    phases: Mapping[str, Spent]
    """Those that were marked."""
    kinds: Mapping[str, tuple[float, float]]
    """Kind -> (milliseconds, calls)."""
    launches: float = 0.0
    """Of kernels and graphs, by the host; here and below without those of the loader's threads."""
    transfers: float = 0.0
    """Copies and fills that the host asked for."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Calls in which the host waits for the device -> how many."""

    @property
    def idle_ms(self) -> float:
        """While the device had nothing to do."""
        return self.wall_ms - self.busy_ms


def read(events: Sequence[Mapping[str, Any]]) -> Profile:
    """The profile of the steps between the first mark and the last.

    Args:
        events: `traceEvents` of the trace; times in microseconds.

    Raises:
        ValueError: there are no marks, or no `DRAIN` and `END` after them.
    """
    whole = [event for event in events if event.get("ph") == "X"]
    marks, ranges, threads = _marks(whole)
    names = [name for _, name in marks]
    if DATA not in names or names[-2:] != [DRAIN, END]:
        raise ValueError(f"the trace has no whole step: its marks are {names}")
    begins, (drains_at, ends_at) = marks[0][0], (time for time, _ in marks[-2:])
    steps = names.count(DATA)

    def share(total: float) -> float:
        return total / steps

    phase_of = _PhaseOf(marks, threads if ranges else None)
    launched: dict[int, str] = {}
    launches = transfers = 0
    waits: Counter[str] = Counter()
    for call in whole:
        if call.get("cat") not in _CALLS or not begins <= call["ts"] < ends_at:
            continue
        if (correlation := _correlation(call)) is not None:
            launched[correlation] = phase_of(call["ts"], call["tid"])
        if call["ts"] < drains_at and phase_of(call["ts"], call["tid"]) != AUGMENT:
            name = call["name"]
            launches += name.startswith(_LAUNCHES)
            transfers += name.startswith(_TRANSFERS)
            if "Synchronize" in name or name in _BLOCKING:
                waits[name] += 1
    on_device: defaultdict[str, float] = defaultdict(float)
    kinds: dict[str, tuple[float, int]] = {}
    intervals = []
    for event in whole:
        if event.get("cat") not in _ON_DEVICE or (phase := launched.get(_correlation(event))) is None:
            continue
        if phase == AUGMENT and event["name"].startswith("Memcpy HtoD"):
            phase = UPLOAD
        on_device[phase] += event["dur"]
        kind = kind_of(event["name"])
        spent, calls = kinds.get(kind, (0.0, 0))
        kinds[kind] = spent + event["dur"], calls + 1
        intervals.append((event["ts"], event["ts"] + event["dur"]))
    on_host = _on_host(marks, ranges, ends_at)
    return Profile(
        steps=steps,
        wall_ms=share(ends_at - begins) / 1000,
        busy_ms=share(covered(intervals)) / 1000,
        phases={
            phase: Spent(share(on_host[phase]) / 1000, share(on_device[phase]) / 1000)
            for phase in PHASES
            if phase in on_host or phase in on_device
        },
        kinds={kind: (share(spent) / 1000, share(calls)) for kind, (spent, calls) in kinds.items()},
        launches=share(launches),
        transfers=share(transfers),
        waits={name: share(count) for name, count in waits.items()},
    )


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what the intervals cover together; where several lie over each other it counts once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def phase_ranges(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events to add to a trace: each phase as a bar, on a track of its own, for who looks at it."""
    marks, _, _ = _marks([event for event in events if event.get("ph") == "X"])
    track = {"pid": "phases of the step", "tid": "phases of the step"}
    return [
        {"ph": "X", "cat": "phase", "name": name, "ts": begin, "dur": end - begin, **track}
        for (begin, name), (end, _) in pairwise(marks)
    ]


@dataclass(frozen=True)
class _Range:
    """Work in another thread, beside the step."""

    begin: float
    end: float
    name: str


def _marks(events: Iterable[Mapping[str, Any]]) -> tuple[list[tuple[float, str]], list[_Range], set[Any]]:
    """(marks by time, ranges of other threads, the threads of the step itself: those that mark, and those of the autograd engine)."""
    marks, ranges, threads = [], [], set()
    for event in events:
        name = event["name"].removeprefix(MARK)
        if event.get("cat") == "cpu_op" and name.startswith("autograd::engine"):
            threads.add(event["tid"])
        elif event.get("cat") != "user_annotation" or not event["name"].startswith(MARK):
            continue
        elif name == AUGMENT:
            ranges.append(_Range(event["ts"], event["ts"] + event["dur"], name))
        else:
            marks.append((event["ts"], name))
            threads.add(event["tid"])
    return sorted(marks), ranges, threads


class _PhaseOf:
    """Which phase a call at a time by a thread belongs to. With `threads`, all others are the loader's, whose decoder has some of its own."""

    def __init__(self, marks: Sequence[tuple[float, str]], threads: set[Any] | None) -> None:
        self.times, self.names = [time for time, _ in marks], [name for _, name in marks]
        self.threads = threads

    def __call__(self, time: float, thread: Any) -> str:
        if self.threads is not None and thread not in self.threads:
            return AUGMENT
        return self.names[bisect.bisect_right(self.times, time) - 1]


def _on_host(marks: Sequence[tuple[float, str]], ranges: Iterable[_Range], ends_at: float) -> defaultdict[str, float]:
    spent: defaultdict[str, float] = defaultdict(float)
    for (begin, name), (end, _) in pairwise(marks):
        spent[name] += end - begin
    begins = marks[0][0]
    for one in ranges:
        spent[one.name] += max(0.0, min(one.end, ends_at) - max(one.begin, begins))
    return spent


def _correlation(event: Mapping[str, Any]) -> int | None:
    return event.get("args", {}).get("correlation")
