# SPDX-License-Identifier: AGPL-3.0-or-later
"""Start the processes that train on the GPUs of this machine, watch them, and end as the first that failed did.

Built on torch's elastic agent, as torchrun is: when one process fails, the agent ends the others. What torchrun leaves out is the reason; it
says "exitcode 1" whatever happened. On several machines each starts its own, once all are there (distributed/meeting.py).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from yolov12 import errors, settings
from yolov12.distributed import binding
from yolov12.distributed.launchers import LOOPBACK, Machines
from yolov12.distributed.meeting import Meeting, as_words, meet
from yolov12.engine.termination import SIGNALS
from yolov12.errors import TERMINATED, ExitError, PeerFailedError, RetryableError
from yolov12.log import say
from yolov12.memory.failure import headline

HEARD = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, *SIGNALS)
"""Passed on to the processes, which then have 30 seconds to finish their step (torch/distributed/elastic/multiprocessing/api.py)."""
HAS_SIGNALS = "signals_to_handle" in LaunchConfig.__dataclass_fields__
"""torch 2.9, of the image for older drivers, has a list of its own, without SIGUSR1."""
ENDS_S = 10.0
"""How long a machine waits for word of another on why its own ranks lost theirs."""

GRACE_S = 5
"""A process that is killed later than this after another gave up was killed by the agent. Timestamps are whole seconds."""


def start(script: str, ranks: int, machines: Machines | None = None, arguments: Sequence[str] = ()) -> None:
    """Run `script` in `ranks` processes with RANK, LOCAL_RANK and WORLD_SIZE set; returns when all have ended well.

    Args:
        ranks: how many on this machine.
        machines: of the run, each of which calls this; None for this one alone.

    Raises:
        UserError, RetryableError: what the first process that failed raised, with its rank; or the machines did not come together.
        ExitError: it was a bug; that process has printed its traceback.
        SystemExit: a signal asked this process to end.
    """
    os.environ[binding.THREADS_VARIABLE] = binding.threads_each(ranks)
    meeting = None
    if machines is None or machines.count == 1:
        say(f"launch: {ranks} processes on this machine")
        config = _config(ranks, "127.0.0.1:0", rdzv_backend="c10d", local_addr=LOOPBACK)
    else:
        timeout_s = settings.current().rdzv_timeout_s
        meeting = meet(machines, ranks, timeout_s)
        say(
            f"launch: {sum(meeting.local_sizes)} processes on {machines.count} machines; this is machine {machines.node}, with {ranks} of them "
            f"({machines.launcher}: {machines.reason})"
        )
        place = {"rank": machines.node, "timeout": timeout_s}
        endpoint = f"{machines.address}:{machines.port}"
        config = _config(
            ranks,
            endpoint,
            rdzv_backend="static",
            rdzv_configs=place,
            nodes=machines.count,
            local_addr=socket.gethostname(),
        )
    with _handlers_kept():
        try:
            elastic_launch(config, sys.executable)("-m", "yolov12.engine.rank", script, *arguments)
        except ChildFailedError as failed:
            raise _with_other_machines(as_error(failed.failures), meeting) from None
        except SignalException as ended:
            asked = ended.sigval
            raise SystemExit(TERMINATED if asked in SIGNALS else 128 + asked) from None


def _config(ranks: int, endpoint: str, nodes: int = 1, **more: Any) -> LaunchConfig:
    if HAS_SIGNALS:
        more["signals_to_handle"] = ",".join(number.name for number in HEARD)
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=ranks,
        run_id=f"yolov12-{os.getpid() if nodes == 1 else 'machines'}",
        rdzv_endpoint=endpoint,  # with an address of its own, else the host's name is looked up, which fails in a container without a network
        max_restarts=0,
        **more,
    )
    # torch would bind the rank to its GPU's cores by the program numactl, and takes the GPU's number for the rank's; see distributed/binding.py.
    config.numa_options = None
    return config


def _with_other_machines(mine: ExitError | SystemExit, meeting: Meeting | None) -> ExitError | SystemExit:
    """The error of another machine where this one's ranks only lost their peers, which is told to the others in turn."""
    if meeting is None or isinstance(mine, SystemExit):
        return mine
    if not isinstance(mine, PeerFailedError):
        meeting.tell_end(as_words(mine))
        if meeting.machines.node == 0:  # the store ends with this process: the others read it first
            meeting.others_ends(ENDS_S)
        return mine
    ends = {node: _parsed(words) for node, words in meeting.others_ends(ENDS_S).items()}
    meeting.tell_end(as_words(mine))
    causes = {node: (kind, words) for node, (kind, words) in ends.items() if kind is not PeerFailedError}
    if not causes:
        return mine
    node = min(causes)
    kind, words = causes[node]
    return (kind or ExitError)(f"machine {node}: {words}")


def as_error(failures: Mapping[int, ProcessFailure]) -> ExitError | SystemExit:
    """What this process ends with, from how the others ended (by rank).

    The cause is the earliest that is no consequence of another: the agent sends SIGTERM to the rest once one has failed, and in a vote or a
    broadcast a process learns that a peer is gone.
    """

    told = {rank: failure for rank, failure in failures.items() if recorded(failure)[0] is PeerFailedError}
    first_told_s = min((failure.timestamp for failure in told.values()), default=None)

    def order(rank: int) -> tuple[bool, bool, int, int]:
        failure = failures[rank]
        kind, _ = recorded(failure)
        was_ended = kind is None and failure.exitcode in (-signal.SIGTERM, TERMINATED)
        # One that did not answer to SIGTERM either, for example because it was stopped, is killed some time after its peers gave up.
        if failure.exitcode == -signal.SIGKILL and first_told_s is not None:
            was_ended = failure.timestamp > first_told_s + GRACE_S
        return was_ended, rank in told, failure.timestamp, rank

    rank = min(failures, key=order)
    failure = failures[rank]
    kind, words = recorded(failure)
    step = step_in([recorded(failure)[1] for failure in told.values()], rank)
    if kind is not None:
        return kind(f"rank {rank}{step}: {words}")
    if failure.exitcode == TERMINATED:
        return SystemExit(TERMINATED)
    if failure.exitcode < 0:
        return RetryableError(
            f"rank {rank}{step} was killed by {failure.signal_name()}; if that was the system's memory running out, use fewer workers"
        )
    return ExitError(f"rank {rank}{step} ended with exit code {failure.exitcode}: {headline(words)}")


def step_in(words: list[str], rank: int) -> str:
    """At which step its peers last saw a rank, from what they said of it; begins with a comma, "" where none did."""
    said = rf"rank {rank} (?:\(step |failed at step )(\d+)|failed at step (\d+), rank {rank}:"
    found = (re.search(said, text) for text in words)
    return next((f", step {match[1] or match[2]}" for match in found if match), "")


def recorded(failure: ProcessFailure) -> tuple[type[ExitError] | None, str]:
    """(class, message) of the error that rank.py recorded; None for a bug, and for what left no record."""
    found: object = failure.message  # declared as text, and a dictionary where an error file was read
    return _parsed(str(found["message"]) if isinstance(found, dict) else str(found))


def _parsed(text: str) -> tuple[type[ExitError] | None, str]:
    """(class, words) of "UserError: no such file"; None for what is no error of ours."""
    name, _, words = text.partition(": ")
    kind = getattr(errors, name, None)
    is_ours = isinstance(kind, type) and issubclass(kind, ExitError)
    return (kind, words) if is_ours else (None, text)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """The agent sets signal handlers and leaves them behind; those that an older torch does not set are set here, to the same effect."""
    before = {number: signal.getsignal(number) for number in HEARD}

    def end(number: int, frame: Any) -> None:
        raise SignalException(f"the launcher got {signal.Signals(number).name}", sigval=signal.Signals(number))

    try:
        for number in () if HAS_SIGNALS else HEARD:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
