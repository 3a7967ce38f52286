# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 train` on two CPU ranks of this machine, one of which is killed or stopped from outside at a moment that a seed draws.

The command ends with that rank's reason, no process is left, and the run goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults.test_out_of_memory import TINY
from yolov12.data import synth

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 5
LIMIT_S = 120.0
SAYS = {signal.SIGKILL: "was killed by SIGKILL", signal.SIGSTOP: "gave no sign of life"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Run:
    """A command, its processes, and what it says."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        machines = {"NODE_RANK": "0", "NNODES": "1", "GPUS_PER_NODE": "2", "YOLOV12_DIST_TIMEOUT_S": str(TIMEOUT_S)}
        self.mark = f"TEST_RUN={folder}".encode()
        self.lines: list[str] = []
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "yolov12.cli", "train", *arguments],
            cwd=folder,
            env={
                **os.environ,
                **machines,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
                "OMP_NUM_THREADS": "1",
                "TEST_RUN": str(folder),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.launcher.stderr is not None
        self.lines += (line.rstrip() for line in self.launcher.stderr)

    def processes(self) -> dict[int, str]:
        """PID -> RANK, "" for the launcher's own, of all that were started for this run and still live."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                names = (folder / "environ").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except (OSError, IndexError):
                continue
            if self.mark in names and state != "Z":
                found[int(folder.name)] = next((name[5:].decode() for name in names if name.startswith(b"RANK=")), "")
        return found

    def wait_for(self, happened, what: str) -> None:
        until_s = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < until_s, f"no {what}: {self.lines}"
            assert self.launcher.poll() is None, self.lines
            time.sleep(0.1)


def hit_a_rank(tmp_path: Path, sent: signal.Signals, seed: int, *where: str) -> None:
    """Start a training of two ranks, send one of them a signal, look at how the run ends, and resume it."""
    rng = random.Random(f"{seed} {sent.name}")
    victim, moment_s = rng.choice("01"), rng.uniform(0, 3)
    (tmp_path / "tiny.yaml").write_text(TINY)
    synth.write(tmp_path / "synth", n_train=24, n_val=4, imgsz=64)
    words = "model=tiny.yaml data=synth/data.yaml imgsz=64 batch=4 epochs=500 plots=False save_steps=2"
    run = Run(tmp_path, *words.split(), *where, f"project={tmp_path}", "name=run")
    last = tmp_path / "run/weights/last.pt"
    run.wait_for(last.exists, "checkpoint")
    time.sleep(moment_s)
    os.kill(next(pid for pid, rank in run.processes().items() if rank == victim), sent)
    assert run.launcher.wait(LIMIT_S) == 75, run.lines
    error = run.lines[-1]
    assert f"rank {victim}" in error, run.lines
    assert "step " in error, run.lines
    assert SAYS[sent] in error, run.lines
    assert run.processes() == {}

    again = Run(tmp_path, f"resume={last}")
    again.wait_for(lambda: any(line.startswith("resume: epoch ") for line in again.lines), "resumed epoch")
    again.launcher.send_signal(signal.SIGTERM)
    assert again.launcher.wait(LIMIT_S) == 143, again.lines
    assert again.processes() == {}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("seed", range(3))
def test_a_rank_that_is_hit_is_named_nothing_is_left_and_the_run_goes_on(
    tmp_path: Path, sent: signal.Signals, seed: int
) -> None:
    hit_a_rank(tmp_path, sent, seed, "device=cpu")
