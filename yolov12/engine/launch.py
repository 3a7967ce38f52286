# SPDX-License-Identifier: AGPL-3.0-or-later
"""Start the processes that train on several GPUs of this machine, watch them, and end as the first that failed did.

Built on torch's elastic agent, as torchrun is: when one process fails, the agent ends the others. What torchrun leaves out is the reason; it
says "exitcode 1" whatever happened. Processes on several machines are started by torchrun itself, or by a scheduler.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from yolov12.engine.termination import SIGNALS
from yolov12.errors import TERMINATED, ExitError, PeerFailedError, RetryableError, UserError
from yolov12.log import say

HEARD = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, *SIGNALS)
"""Passed on to the processes, which then have 30 seconds to finish their step (torch/distributed/elastic/multiprocessing/api.py)."""


def start(script: str, ranks: int) -> None:
    """Run `script` in `ranks` processes with RANK, LOCAL_RANK and WORLD_SIZE set; returns when all have ended well.

    Raises:
        UserError, RetryableError: what the first process that failed raised, with its rank.
        ExitError: it was a bug; that process has printed its traceback.
        SystemExit: a signal asked this process to end.
    """
    say(f"launch: {ranks} processes on this machine")
    # The interpreter's own default would be every core for each of them; a launcher of the user's may have said something else.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"yolov12-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",  # else the host's name is looked up, which fails in a container without a network
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in HEARD),
    )
    with _handlers_kept():
        try:
            elastic_launch(config, sys.executable)("-m", "yolov12.engine.rank", script)
        except ChildFailedError as failed:
            raise as_error(failed.failures) from None
        except SignalException as ended:
            asked = ended.sigval
            raise SystemExit(TERMINATED if asked in SIGNALS else 128 + asked) from None


def as_error(failures: Mapping[int, ProcessFailure]) -> ExitError | SystemExit:
    """What this process ends with, from the processes (rank -> how it ended) that were found dead when the agent looked.

    The cause is the earliest of those that nobody ended: neither the agent, which sends SIGTERM to the rest once one has failed, nor the
    vote in which a peer told of its failure.
    """

    def order(rank: int) -> tuple[bool, int, int]:
        failure = failures[rank]
        told = failure.exitcode in (-signal.SIGTERM, TERMINATED) or message_of(failure).startswith(
            PeerFailedError.__name__
        )
        return told, failure.timestamp, rank

    rank = min(failures, key=order)
    failure = failures[rank]
    name, _, words = message_of(failure).partition(": ")
    reason = f"rank {rank}: {words or name}"
    if failure.exitcode == UserError.exit_code:
        return UserError(reason)
    if failure.exitcode == RetryableError.exit_code:
        return RetryableError(reason)
    if failure.exitcode == TERMINATED:
        return SystemExit(TERMINATED)
    if failure.exitcode < 0:
        return RetryableError(
            f"rank {rank} was killed by {failure.signal_name()}; if that was the system's memory running out, use fewer workers"
        )
    return ExitError(f"rank {rank} ended with exit code {failure.exitcode}: {message_of(failure)}")


def message_of(failure: ProcessFailure) -> str:
    """ "UserError: ..." as rank.py recorded it, or torch's words where nothing was recorded."""
    found: object = failure.message  # declared as text, and a dictionary where an error file was read
    return str(found["message"]) if isinstance(found, dict) else str(found)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """The agent sets signal handlers and leaves them behind."""
    before = {number: signal.getsignal(number) for number in HEARD}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
