# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading threads: answers, errors, an end that drops what waits, and a process that ends although one of them is stuck."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from yolov12.data.loader.threads import Threads


def test_answers_and_errors_come_back_to_who_asked():
    threads = Threads(2, "test")
    answers = [threads.submit(divmod, 7, divisor) for divisor in (2, 0, 3)]
    assert answers[0].result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        answers[1].result()
    assert answers[2].result() == (2, 1)
    assert threads.close(within_s=10) == 0


def test_closing_waits_for_what_runs_and_drops_what_does_not():
    threads, begun, goes_on = Threads(1, "test"), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        goes_on.wait(10)
        return "done"

    runs, waits = threads.submit(work), threads.submit(work)
    assert begun.wait(10)
    assert threads.close(within_s=0) == 1
    with pytest.raises(CancelledError):
        waits.result()
    goes_on.set()
    assert runs.result() == "done"
    assert threads.close(within_s=10) == 0
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(work)


def test_threads_that_have_nothing_to_do_do_not_begin():
    threads = Threads(2, "test-idle")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-idle")]
    assert threads.close(within_s=10) == 0


def test_threads_end_with_the_object_that_nobody_closed():
    threads = Threads(2, "test-forgotten")
    assert threads.submit(divmod, 7, 2).result() == (3, 1)
    running = [thread for thread in threading.enumerate() if thread.name.startswith("test-forgotten")]
    assert len(running) == 2
    del threads
    for thread in running:
        thread.join(10)
        assert not thread.is_alive()


STUCK = """
import threading
from yolov12.data.loader.threads import Threads
begun = threading.Event()
def stuck():
    begun.set()
    threading.Event().wait()
threads = Threads(2, "test")
threads.submit(stuck)
begun.wait()
print(threads.close(within_s=0.1), "left behind")
"""


def test_a_thread_that_never_comes_back_does_not_keep_the_process():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1 left behind\n"
