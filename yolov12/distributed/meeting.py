# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the machines of a run meet before their ranks start: each says that it is there, and waits for the others with a line now and then.

They meet at a store that the first machine keeps at MASTER_ADDR:MASTER_PORT. torch's agent then uses the same port, so that one has to be open.
A machine whose ranks failed leaves the reason there: the ranks of the others only learn that a connection was closed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed as dist

from yolov12.distributed.arrival import POLL_S, PROGRESS_S, Waiting
from yolov12.distributed.launchers import Machines
from yolov12.errors import ExitError, PeerFailedError, RetryableError, UserError

ANSWER_S = 60
"""How long the store may take for one answer."""
LAST_ANSWER_S = 5.0
"""And at a run's end, when the network may be what ended it."""

T = TypeVar("T")


class Meeting:
    """The machines that have met. Kept until this machine's ranks have ended: on the first machine it holds the store."""

    def __init__(self, store: dist.Store, machines: Machines, local_sizes: list[int]) -> None:
        self.store, self.machines, self.local_sizes = store, machines, local_sizes

    def tell_end(self, words: str) -> None:
        """Leave word of how this machine's ranks ended; no failure where the first machine is gone, or its network."""
        _in_time(lambda: self._tell_end(words), None, LAST_ANSWER_S)

    def others_ends(self, wait_s: float) -> dict[int, str]:
        """What other machines have left word of: machine -> words. Waits for a cause, or on the machine that keeps the store for all of them."""
        return _in_time(lambda: self._others_ends(wait_s), {}, wait_s + LAST_ANSWER_S)

    def _tell_end(self, words: str) -> None:
        try:
            self.store.set(f"ended/{self.machines.node}", words)
        except (RuntimeError, ValueError):  # the connection is closed: DistNetworkError and its like
            return

    def _others_ends(self, wait_s: float) -> dict[int, str]:
        others = [node for node in range(self.machines.count) if node != self.machines.node]
        found: dict[int, str] = {}
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s:
            try:
                found = {
                    node: _read(self.store, f"ended/{node}") for node in others if self.store.check([f"ended/{node}"])
                }
            except (RuntimeError, ValueError):
                return found
            has_cause = any(not words.startswith(PeerFailedError.__name__) for words in found.values())
            if len(found) == len(others) or (has_cause and self.machines.node > 0):
                break
            time.sleep(POLL_S)
        return found


def _in_time(ask: Callable[[], T], otherwise: T, limit_s: float) -> T:
    """What `ask` gives; `otherwise` if it gives nothing in time. Where the network is cut, torch's store waits for ever, whatever its timeout is."""
    answers: list[T] = []
    asking = threading.Thread(target=lambda: answers.append(ask()), daemon=True)  # left behind where it does not return
    asking.start()
    asking.join(limit_s)
    return answers[0] if answers else otherwise


def meet(machines: Machines, local_size: int, timeout_s: float, progress_s: float = PROGRESS_S) -> Meeting:
    """Wait until all machines are there.

    Args:
        local_size: how many ranks this machine will start; the others may start another number.
        timeout_s: after which a machine that is not there counts as missing.

    Raises:
        UserError: MASTER_PORT is taken, two machines have one NODE_RANK, or they do not agree on their number.
        RetryableError: a machine did not come in time.
    """
    where = f"{machines.address}:{machines.port}"
    wait = Waiting(timeout_s, progress_s)
    store = _keep(machines) if machines.node == 0 else _reach(machines, wait, f"the first machine at {where}")
    mine = {"count": machines.count, "local_size": local_size, "host": socket.gethostname(), "pid": os.getpid()}
    _take_place(store, machines.node, mine)
    keys = [f"machine/{node}" for node in range(machines.count)]
    there: dict[int, dict[str, Any]] = {}

    def all_there() -> bool:
        for node, key in enumerate(keys):
            if node not in there and store.check([key]):
                there[node] = json.loads(_read(store, key))
                _same_count(machines, there[node], node)
        return len(there) == machines.count

    def missing() -> str:
        absent = ", ".join(str(node) for node in range(machines.count) if node not in there)
        return f"machine {absent} of {machines.count} at {where}; this is machine {machines.node} ({machines.reason})"

    try:
        wait.until(all_there, missing)
    except RuntimeError as error:  # the first machine is gone, and the store with it
        raise RetryableError(f"the first machine at {where} ended before all machines were there") from error
    return Meeting(store, machines, [there[node]["local_size"] for node in range(machines.count)])


def _same_count(machines: Machines, other: dict[str, Any], node: int) -> None:
    if other["count"] != machines.count:
        raise UserError(
            f"machine {node} ({other['host']}) takes part in a run of {other['count']} machines, and this one, machine {machines.node}, "
            f"in a run of {machines.count} ({machines.reason}): set the same number on all machines"
        )


def _keep(machines: Machines) -> dist.Store:
    """The store, on the first machine."""
    try:
        return dist.TCPStore(
            machines.address,
            machines.port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=ANSWER_S),
            multi_tenant=True,  # torch's agent opens it again, in this process
        )
    except RuntimeError as error:
        words = str(error).splitlines()[0]
        if "EADDRINUSE" in words or "address already in use" in words.lower():
            raise UserError(
                f"MASTER_PORT={machines.port} is taken on this machine: set another one on all machines"
            ) from error
        raise UserError(
            f"MASTER_ADDR={machines.address}: the first machine (NODE_RANK=0) must be reachable there, and is not: {words}"
        ) from error


def _reach(machines: Machines, wait: Waiting, what: str) -> dist.Store:
    """A connection to the store of the first machine, which may start later than this one."""

    def answers() -> bool:
        try:
            socket.create_connection((machines.address, machines.port), timeout=2).close()
        except OSError:  # refused, unreachable, or a name that is not known yet: a pod's comes with the pod
            return False
        return True

    wait.until(answers, lambda: what)
    try:
        return dist.TCPStore(
            machines.address,
            machines.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=ANSWER_S),
        )
    except RuntimeError as error:
        raise RetryableError(f"{what} closed the connection: {str(error).splitlines()[0]}") from error


def _take_place(store: dist.Store, node: int, mine: dict[str, Any]) -> None:
    """Say that this machine is there, once."""
    key, text = f"machine/{node}", json.dumps(mine)
    there = store.compare_set(key, "", text).decode()
    if there == text:
        return
    other = json.loads(there)
    if other["host"] == mine["host"] and other["pid"] != mine["pid"] and not os.path.exists(f"/proc/{other['pid']}"):
        raise RetryableError(
            f"machine {node} was here before with process {other['pid']}: the run it began is still ending"
        )
    raise UserError(f"NODE_RANK={node} is taken by {other['host']}: give each machine a number of its own")


def _read(store: dist.Store, key: str) -> str:
    return bytes(store.get(key)).decode()


def as_words(error: ExitError) -> str:
    """An error as it is left for other machines."""
    return f"{type(error).__name__}: {error}"
