# SPDX-License-Identifier: AGPL-3.0-or-later
"""A training in miniature on three gloo ranks, in which one rank comes to harm: `python -m tests.faults.rank_faults FOLDER CASES` runs the cases.

The ranks are forks of one process that has imported everything, so that a case costs a second. Votes, sums, signs of life and last words are the
real ones; weights are a few numbers, and a checkpoint is a file with the number of its step. In half of the cases the store is in a process of
its own, as under torchrun, and in the others rank 0 keeps it, as under Slurm and MPI.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from yolov12.distributed import pulse, world
from yolov12.distributed.reduce import Reducer
from yolov12.distributed.vote import vote
from yolov12.engine.last_words import telling_the_others
from yolov12.errors import ExitError, PeerFailedError, RetryableError
from yolov12.mistakes import as_exit
from yolov12.wholefile import replacing

RANKS = 3
TIMEOUT_S = 5
STEPS = 24
SAVE_EVERY = 6
KINDS = ("kill", "stop", "out of memory", "not finite", "loader", "disk full", "busy", "late")


def draw(seed: int) -> list[dict[str, Any]]:
    """One case of each kind."""
    generator = random.Random(seed)
    cases = [
        {"kind": kind, "rank": generator.randrange(RANKS), "step": generator.randrange(2, STEPS - 1)} for kind in KINDS
    ]
    for case in cases:
        if case["kind"] in ("disk full", "busy"):  # what rank 0 does every few steps
            case["rank"], case["step"] = 0, SAVE_EVERY * generator.randrange(1, STEPS // SAVE_EVERY)
        case["rank 0 keeps the store"] = generator.random() < 0.5
    return cases


class Broken(Dataset):
    """One sample of it can not be read, in a worker process."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError("picture 7.jpg is broken")


def harm(kind: str) -> str | None:
    """What happens to the rank; the reason to vote if it is one that a vote tells."""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "late":
        time.sleep(60)
    if kind == "loader":
        list(DataLoader(Broken(), num_workers=1))
    return {"out of memory": "CUDA out of memory", "not finite": "the loss is nan"}.get(kind)


def save(folder: Path, step: int, kind: str | None) -> None:
    with pulse.doing("saving the checkpoint"), replacing(folder / "last") as part:
        if kind == "busy":
            time.sleep(TIMEOUT_S + 2)
        if kind == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        part.write_text(str(step))


def train(rank: int, folder: Path, case: dict[str, Any]) -> None:
    group = world.join(world.World(rank, RANKS, RANKS, True), torch.device("cpu"), TIMEOUT_S, 60)
    weights = torch.zeros(10)
    with telling_the_others():
        reducer = Reducer([weights])
        first = int((folder / "last").read_text()) if (folder / "last").exists() else 0
        for step in range(first + 1, STEPS + 1):
            pulse.at_step(step)
            is_hit = step == case["step"] and rank == case["rank"]
            verdict = vote(harm(case["kind"]) if is_hit else None, group)
            if not verdict.all_succeeded:
                kind = RetryableError if rank in verdict.reasons else PeerFailedError
                raise kind(f"at step {step}, {verdict.first()}")
            reducer.sum([torch.ones(10)], torch.ones(2))
            if step % SAVE_EVERY == 0 and rank == 0:
                save(folder, step, case["kind"] if is_hit else None)
    (folder / f"{rank} done").touch()


def run_rank(rank: int, folder: Path, port: int, case: dict[str, Any]) -> int:
    sys.stderr = (folder / f"{rank} stderr").open("w")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(RANKS))
    if not case["rank 0 keeps the store"]:
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    try:
        train(rank, folder, case)
    except Exception as error:
        known = as_exit(error)
        if known is None:
            raise
        print(f"{type(known).__name__}: {known}", file=sys.stderr, flush=True)
        return known.exit_code
    finally:
        world.leave(failed=True)
    return 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_store() -> tuple[int, int]:
    """(process, port) of the run's store. Not in this process: a fork must not meet its threads."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
        os.write(writing, str(store.port).encode())
        time.sleep(600)
        os._exit(0)
    port = int(os.read(reading, 10))
    os.close(reading)
    os.close(writing)
    return pid, port


def run_case(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    """How each rank ended; one that does not end by itself within four timeouts is killed and has code None."""
    folder.mkdir(parents=True, exist_ok=True)
    keeper, port = (0, free_port()) if case["rank 0 keeps the store"] else start_store()
    began_s = time.monotonic()
    ranks = {}
    for rank in range(RANKS):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                code = run_rank(rank, folder, port, case)
            except ExitError as error:
                code = error.exit_code
            finally:
                sys.stderr.flush()
                os._exit(code)
        ranks[pid] = rank
    codes: dict[int, int | None] = dict.fromkeys(range(RANKS))
    victims = 1 if case["kind"] in ("stop", "late") else 0
    while len(ranks) > victims and time.monotonic() - began_s < 4 * TIMEOUT_S + 10:
        for pid in list(ranks):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    seconds = time.monotonic() - began_s
    for pid in filter(None, [*ranks, keeper]):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    said = {rank: (folder / f"{rank} stderr").read_text() for rank in range(RANKS)}
    last = folder / "last"
    return {"codes": codes, "said": said, "seconds": seconds, "saved": int(last.read_text()) if last.exists() else 0}


def main(folder: str, cases: str) -> None:
    torch.set_num_threads(1)
    results = []
    for i, case in enumerate(json.loads(cases)):
        where = Path(folder) / str(i)
        result = run_case(where, case)
        again = run_case(where, {**case, "kind": "none", "step": 0})
        results.append({**result, "resumed": again["codes"]})
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
