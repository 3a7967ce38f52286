# SPDX-License-Identifier: AGPL-3.0-or-later
"""The launcher ends as the first process that failed did, and leaves none behind. Real processes, no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from yolov12.engine import launch
from yolov12.errors import ExitError, RetryableError, UserError

REPOSITORY = Path(__file__).parents[2]
PRELUDE = "import os, sys, time\nfrom yolov12.errors import *\nrank = int(os.environ['RANK'])\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a script that all ranks run; `rank` and the errors are defined in it."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)

    def write(body: str) -> str:
        (tmp_path / "script.py").write_text(PRELUDE + body)
        return str(tmp_path / "script.py")

    return write


def test_every_rank_runs_the_script_as_its_main_program(script, tmp_path: Path) -> None:
    launch.start(script("assert __name__ == '__main__'\nopen(f'{rank} of {os.environ[\"WORLD_SIZE\"]}', 'w')"), 2)
    assert {path.name for path in tmp_path.glob("* of *")} == {"0 of 2", "1 of 2"}


@pytest.mark.parametrize("kind", [UserError, RetryableError])
def test_what_a_rank_raises_is_raised_here_with_its_rank_and_ends_the_others(script, kind: type[ExitError]) -> None:
    body = f"if rank == 1:\n    raise {kind.__name__}('no such thing: type another')\ntime.sleep(60)"
    began_s = time.monotonic()
    with pytest.raises(kind, match=r"^rank 1: no such thing: type another$"):
        launch.start(script(body), 2)
    assert time.monotonic() - began_s < 50, "rank 0 was left to sleep"


def test_a_rank_that_fails_between_votes_is_told_and_not_its_peer_that_waits_for_it(script) -> None:
    body = """
import torch
from yolov12.distributed import vote, world
group = world.join(world.from_environment(), torch.device("cpu"), 60, 60)
vote.vote(None, group)
if rank == 1:
    raise UserError("labels/7.txt: class 9 of 3")
vote.vote(None, group)
"""
    with pytest.raises(UserError, match=r"^rank 1: labels/7\.txt: class 9 of 3$"):
        launch.start(script(body), 2)


def test_what_a_library_raises_for_a_full_disk_is_worth_a_retry(script) -> None:
    with pytest.raises(RetryableError, match=r"^rank 0: .*No space left"):
        launch.start(script("raise OSError(28, 'No space left on device', 'results.csv')"), 1)


def test_a_bug_says_which_rank_and_keeps_its_traceback(script, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExitError, match="rank 0 ended with exit code 1: ZeroDivisionError: division by zero"):
        launch.start(script("1 / 0"), 1)
    assert "script.py" in capfd.readouterr().err


def test_a_rank_that_is_killed_is_worth_a_retry(script) -> None:
    with pytest.raises(RetryableError, match="rank 0 was killed by SIGKILL"):
        launch.start(script("os.kill(os.getpid(), 9)"), 1)


def test_signal_handlers_are_as_before(script) -> None:
    before = {number: signal.getsignal(number) for number in launch.HEARD}
    launch.start(script(""), 1)
    assert {number: signal.getsignal(number) for number in launch.HEARD} == before


LISTENS = """
import signal
def end(*_):
    open(str(rank) + " asked to end", "w")
    sys.exit(143)
signal.signal({number}, end)
open(str(rank) + " ready", "w")
time.sleep(60)
"""


def launcher_of_two(script: str, folder: Path, prelude: str = "") -> subprocess.Popen[bytes]:
    """A launcher in a process of its own, once both ranks are ready."""
    program = f"from yolov12.engine import launch; {prelude}launch.start({script!r}, 2)"
    launcher = subprocess.Popen([sys.executable, "-c", program], cwd=folder, env=dict(os.environ))
    wait_for(folder, "ready")
    return launcher


def wait_for(folder: Path, what: str) -> None:
    deadline_s = time.monotonic() + 100
    while len(list(folder.glob(f"* {what}"))) < 2:
        assert time.monotonic() < deadline_s, f"not both ranks are {what}"
        time.sleep(0.1)


@pytest.mark.parametrize("has_signals", [True, False], ids=["torch 2.11", "torch 2.9"])
def test_a_request_to_end_reaches_every_rank_and_becomes_the_exit_code(
    has_signals: bool, script, tmp_path: Path
) -> None:
    """An older torch's agent does not hear SIGUSR1 by itself."""
    asked = signal.SIGTERM if has_signals else signal.SIGUSR1
    older = "" if has_signals else "launch.HAS_SIGNALS = False; "
    launcher = launcher_of_two(script(LISTENS.format(number=int(asked))), tmp_path, older)
    launcher.send_signal(asked)
    assert launcher.wait(timeout=100) == 143
    assert {path.name for path in tmp_path.glob("* asked to end")} == {"0 asked to end", "1 asked to end"}


def test_ranks_whose_launcher_is_killed_are_asked_to_end(script, tmp_path: Path) -> None:
    launcher = launcher_of_two(script(LISTENS.format(number=int(signal.SIGTERM))), tmp_path)
    launcher.kill()
    launcher.wait(timeout=100)
    wait_for(tmp_path, "asked to end")


def failure(rank: int, exit_code: int, message: str, timestamp: int) -> ProcessFailure:
    made = ProcessFailure(local_rank=rank, pid=1, exitcode=exit_code, error_file="")
    made.message, made.timestamp = message, timestamp
    return made


def test_a_rank_that_stopped_because_of_a_peer_is_not_the_cause() -> None:
    dead = {
        0: failure(0, 75, "PeerFailedError: training stopped because another process failed, rank 1: ...", 5),
        1: failure(1, 2, "UserError: labels/7.txt: class 9 of 3", 5),
    }
    error = launch.as_error(dead)
    assert (type(error), str(error)) == (UserError, "rank 1: labels/7.txt: class 9 of 3")


def test_a_rank_that_the_agent_ended_is_not_the_cause() -> None:
    dead = {0: failure(0, -15, "Signal 15 (SIGTERM) received by PID 1", 5), 1: failure(1, 2, "UserError: wrong", 5)}
    assert str(launch.as_error(dead)) == "rank 1: wrong"


def test_of_two_causes_the_earlier_is_told() -> None:
    dead = {0: failure(0, 2, "UserError: late", 9), 1: failure(1, 75, "RetryableError: early", 8)}
    assert str(launch.as_error(dead)) == "rank 1: early"


def test_a_killed_rank_is_told_with_the_step_at_which_its_peers_saw_it() -> None:
    peer = "PeerFailedError: training stopped: rank 1 (step 17) is gone without a word (Connection closed by peer)"
    dead = {0: failure(0, 75, peer, 9), 1: failure(1, -9, "Signal 9 (SIGKILL) received by PID 1", 8)}
    assert str(launch.as_error(dead)).startswith("rank 1, step 17 was killed by SIGKILL")


def test_a_bug_in_a_step_is_told_with_the_step() -> None:
    peer = "PeerFailedError: training stopped because another process failed at step 3, rank 1: ValueError: odd"
    dead = {0: failure(0, 75, peer, 9), 1: failure(1, 1, "ValueError: odd", 9)}
    assert str(launch.as_error(dead)) == "rank 1, step 3 ended with exit code 1: ValueError: odd"


def test_a_rank_that_the_agent_had_to_kill_is_not_the_cause_of_what_its_peers_found_long_before() -> None:
    peer = "PeerFailedError: training stopped: rank 1 (step 17) gave no sign of life for 180 s"
    dead = {0: failure(0, 75, peer, 100), 1: failure(1, -9, "Signal 9 (SIGKILL) received by PID 1", 130)}
    assert str(launch.as_error(dead)) == f"rank 0: {peer.partition(': ')[2]}"
