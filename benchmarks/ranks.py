# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several processes of one program on this machine, for benchmarks of many ranks: started as a launcher does, waited for, ended if they hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.system import ROOT

GRACE_S = 20.0
"""For the other processes to end after one has failed."""


def run(
    module: str, asked: Mapping[str, Any], ranks: int, folder: Path, limit_s: float, **environ: str
) -> tuple[str, list[dict[str, Any]]]:
    """`python -m MODULE ORDER.json ANSWER.json` once for each rank; (how it ended badly or "", what each rank has answered until then).

    Args:
        asked: what each of them reads from ORDER.json.
        folder: is made; for these files alone.
        limit_s: after which those that still run count as hung.
        environ: beside this process' own and the launcher's variables.
    """
    folder.mkdir(parents=True)
    order = folder / "order.json"
    order.write_text(json.dumps(asked))
    files = [folder / f"{rank}.json" for rank in range(ranks)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(order), str(answer)],
            cwd=ROOT,
            env={**os.environ, **launched(rank, ranks), **environ},
            stdin=subprocess.DEVNULL,
        )
        for rank, answer in enumerate(files)
    ]
    ended = wait(processes, limit_s)
    return ended, [json.loads(file.read_text()) if file.exists() else {} for file in files]


def launched(rank: int, ranks: int) -> dict[str, str]:
    """As a launcher sets it, but for MASTER_PORT; a single process runs without one."""
    if ranks == 1:
        return {}
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in world.items()}}


def wait(processes: list[subprocess.Popen[bytes]], limit_s: float) -> str:
    """Until all have ended; "" if they did so well. Ends those that hang."""
    until_s, ended = time.monotonic() + limit_s, ""
    while any(process.poll() is None for process in processes):
        bad = [(rank, p.returncode) for rank, p in enumerate(processes) if p.returncode]
        if bad and not ended:
            ended = f"rank {bad[0][0]} ended with exit code {bad[0][1]}"
            until_s = min(until_s, time.monotonic() + GRACE_S)
        if time.monotonic() > until_s:
            ended = ended or f"HUNG: not done after {limit_s:g} s"
            for process in processes:
                process.kill()
                process.wait()
        time.sleep(0.1)
    codes = [process.returncode for process in processes]
    return ended or ("" if not any(codes) else f"exit codes {codes}")


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
