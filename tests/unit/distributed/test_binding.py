# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which cores a rank stays on, on machines that the test makes up; and that the threads of a process do move."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12.distributed.binding import choose, parse, threads_each

TWO_SOCKETS = {0: "0-3,8-11", 1: "0-3,8-11", 2: "4-7,12-15", 3: "4-7,12-15"}
ALL = set(range(16))


def test_a_rank_stays_next_to_its_gpu() -> None:
    assert choose(2, TWO_SOCKETS, ALL, 16) == ({4, 5, 6, 7, 12, 13, 14, 15}, "on cores 4-7,12-15, next to GPU 2")


@pytest.mark.parametrize(
    ("cpulists", "allowed", "words"),
    [
        (TWO_SOCKETS, set(range(4)), "on the 4 of 16 cores that it was started on"),
        ({0: "0-3", 1: "0-3"}, ALL, "next to the same cores"),
        ({0: "0-3"}, ALL, "next to the same cores"),
        ({0: "", 1: "0-3"}, ALL, "does not say"),
    ],
    ids=["somebody has chosen", "one socket", "one GPU", "unknown"],
)
def test_where_it_would_not_help_nothing_is_bound(cpulists: dict, allowed: set, words: str) -> None:
    cpus, reason = choose(0, cpulists, allowed, 16)
    assert cpus == set()
    assert words in reason


def test_processes_share_the_cores_unless_the_user_said_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads_each(processes) for processes in (1, 3, 32)] == ["16", "5", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert threads_each(4) == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads_each(4) == "7"


@given(st.sets(st.integers(0, 300)))
def test_a_list_of_cores_is_read_as_the_kernel_writes_it(cpus: set[int]) -> None:
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and spans[-1][-1] == cpu - 1:
            spans[-1].append(cpu)
        else:
            spans.append([cpu])
    text = ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in spans)
    assert parse(text) == cpus


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_all_threads_of_a_process_move() -> None:
    program = """
import os, threading
from yolov12.distributed.binding import bind
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
bind({min(os.sched_getaffinity(0))})
print([len(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")])
done.set()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[1, 1]\n"
