# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two "machines" on the loopback of this one: they wait for each other, start their ranks, and end for the same reason. gloo, no GPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.dist.ranks import _free_port
from yolov12.data import synth
from yolov12.distributed import meeting, world
from yolov12.distributed.launchers import Machines, World
from yolov12.distributed.meeting import meet
from yolov12.errors import RetryableError, UserError

REPOSITORY = Path(__file__).parents[2]
PRELUDE = "import os, sys, time\nfrom yolov12.errors import *\nrank = int(os.environ['RANK'])\n"
JOIN = """
import torch
from yolov12.distributed import vote, world
group = world.join(world.from_environment(), torch.device("cpu"), 60, 60)
"""
QUICK = "--epochs 1 --imgsz 64 --plots False --optimizer SGD"
START = """
import sys
from yolov12.cli import as_exit
from yolov12.distributed.launchers import of_machine
from yolov12.engine import launch
try:
    launch.start(sys.argv[1], int(sys.argv[2]), of_machine())
except Exception as error:
    print(error)
    sys.exit(as_exit(error).exit_code)
"""


def machines(node: int, port: int, count: int = 2) -> Machines:
    return Machines(node, count, "127.0.0.1", port, "the test", "the test says so")


def started(script: Path, node: int, port: int, ranks: int = 1, **more: str) -> subprocess.Popen[str]:
    places = {"NODE_RANK": str(node), "NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | places | more
    command = [sys.executable, "-c", START, str(script), str(ranks)]
    return subprocess.Popen(
        command, cwd=script.parent, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def script(folder: Path, body: str) -> Path:
    (folder / "script.py").write_text(PRELUDE + body)
    return folder / "script.py"


def test_machines_with_different_numbers_of_ranks_make_one_world(tmp_path: Path) -> None:
    body = JOIN + "open(f'{world.from_all(rank, group)} {world.from_environment().node}{rank}', 'w'); world.leave()"
    port, program = _free_port(), script(tmp_path, body)
    both = [started(program, 1, port, ranks=2), started(program, 0, port, ranks=1)]
    ended = [machine.communicate(timeout=250) for machine in both]
    assert [machine.returncode for machine in both] == [0, 0], ended
    assert {path.name for path in tmp_path.glob("[[]*")} == {"[0, 1, 2] 00", "[0, 1, 2] 11", "[0, 1, 2] 12"}
    assert (
        "launch: 3 processes on 2 machines; this is machine 1, with 2 of them (the environment: NODE_RANK=1 of NNODES=2)"
        in ended[0][1]
    )


@pytest.mark.parametrize("failing", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_all_machines_end_with_the_reason_of_the_one_that_failed(tmp_path: Path, failing: int) -> None:
    body = (
        JOIN
        + f"""
vote.vote(None, group)
if rank == {failing}:
    raise UserError("labels/7.txt: class 9 of 3")
vote.vote(None, group)
"""
    )
    port, program = _free_port(), script(tmp_path, body)
    both = [started(program, node, port) for node in (0, 1)]
    ended = [machine.communicate(timeout=250) for machine in both]
    assert [machine.returncode for machine in both] == [2, 2], ended
    reason = f"rank {failing}: labels/7.txt: class 9 of 3\n"
    assert ended[failing][0] == reason
    assert ended[1 - failing][0] == f"machine {failing}: {reason}"


def test_a_machine_that_does_not_come_is_named_and_worth_a_retry(capfd: pytest.CaptureFixture[str]) -> None:
    port = _free_port()
    with pytest.raises(
        RetryableError, match=rf"waited 1 s for machine 1, 2 of 3 at 127\.0\.0\.1:{port}; this is machine 0"
    ):
        meet(machines(0, port, count=3), 1, timeout_s=1, progress_s=0.3)
    assert "launch: waiting for machine 1, 2 of 3" in capfd.readouterr().err


def test_a_first_machine_that_does_not_come_is_worth_a_retry() -> None:
    began_s = time.monotonic()
    with pytest.raises(RetryableError, match=r"waited 0\.5 s for the first machine at 127\.0\.0\.1"):
        meet(machines(1, _free_port()), 1, timeout_s=0.5)
    assert time.monotonic() - began_s < 10


def test_a_port_that_is_taken_is_said_with_its_name() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(UserError, match=r"MASTER_PORT=\d+ is taken on this machine"):
            meet(machines(0, other.getsockname()[1]), 1, timeout_s=1)


def test_a_store_that_never_answers_is_not_waited_for_at_the_end() -> None:
    assert meeting._in_time(threading.Event().wait, None, 0.05) is None
    assert meeting._in_time(lambda: {1: "UserError: a label"}, {}, 20) == {1: "UserError: a label"}


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch):
    """Rank 0 of two that a launcher like srun started, without its peer; at a port to be named."""

    def join(port: int, timeout_s: int) -> None:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        place = World(0, 2, 2, True, address="127.0.0.1", port=port)
        world.join(place, torch.device("cpu"), timeout_s, timeout_s)

    return join


def test_a_rank_whose_peers_do_not_come_is_worth_a_retry(first_of_two) -> None:
    with pytest.raises(RetryableError, match=r"rank 0 of 2 waited for the others at 127\.0\.0\.1:\d+: "):
        first_of_two(_free_port(), 1)


def test_a_rank_that_finds_its_port_taken_says_which(first_of_two) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(UserError, match=r"MASTER_PORT=\d+ is taken on this machine"):
            first_of_two(other.getsockname()[1], 1)


def test_two_machines_with_one_number_are_told() -> None:
    port = _free_port()
    with ThreadPoolExecutor() as threads:
        first = threads.submit(meet, machines(0, port), 1, timeout_s=3)
        store = meeting._reach(machines(0, port), meeting.Waiting(20), "the first machine")
        while not store.check(["machine/0"]):
            time.sleep(0.05)
        with pytest.raises(UserError, match=r"NODE_RANK=0 is taken by"):
            meeting._take_place(store, 0, {"count": 2, "local_size": 1, "host": "another", "pid": 1})
        with pytest.raises(RetryableError):
            first.result()


def test_machines_that_do_not_agree_on_their_number_are_both_refused() -> None:
    port = _free_port()
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(meet, machines(node, port, count), 1, timeout_s=20) for node, count in ((0, 2), (1, 3))]
        for other, one in ((1, both[0]), (0, both[1])):
            with pytest.raises(UserError, match=rf"machine {other} \(.*\) takes part in a run of . machines"):
                one.result()


@pytest.mark.slow  # four processes that import ultralytics
def test_the_articles_commands_train_on_two_machines(tmp_path: Path) -> None:
    """MASTER_ADDR, MASTER_PORT, WORLD_SIZE and NODE_RANK exported, and `python train.py ... --device auto` once on each; no shared folder."""
    port = _free_port()
    both = []
    for node in (0, 1):
        folder = tmp_path / f"machine{node}"
        data = synth.write(folder / "data", n_train=8, n_val=2, imgsz=64)
        script = f"""
export MASTER_ADDR=127.0.0.1
export MASTER_PORT={port}
export WORLD_SIZE=2
export NODE_RANK={node}
exec {sys.executable} {REPOSITORY}/docker/workbench/train.py --data {data} --model yolov12n.yaml --batch 4 --device auto {QUICK}
"""
        environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        both.append(
            subprocess.Popen(
                ["bash", "-c", script],
                cwd=folder,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    ended = [machine.communicate(timeout=280)[0] for machine in both]
    assert [machine.returncode for machine in both] == [0, 0], "\n".join(ended)
    assert "launcher: the environment: NODE_RANK=0, and WORLD_SIZE=2, which counts machines here" in ended[0]
    assert "launch: 2 processes on 2 machines; this is machine 1, with 1 of them" in ended[1]
    runs = [sorted(path.name for path in tmp_path.glob(f"machine{node}/runs/detect/*/weights/*.pt")) for node in (0, 1)]
    assert runs == [["best.pt", "last.pt"], []]
