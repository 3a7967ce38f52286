# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading pool: every picture comes once and whole, with few slots too, and whatever happens to a process is answered."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.data.loader import zoo
from yolov12.data.fit import fit_array
from yolov12.data.loader import plain, reader_pool
from yolov12.data.loader.fetch import Fetched
from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.reader_pool import ReaderPool
from yolov12.data.loader.store import Store

IMGSZ = 48
CPU = torch.device("cpu")
Make = Callable[..., ReaderPool]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return zoo.write(tmp_path, {f"{number}.jpg": zoo.USABLE["photo.jpg"] for number in range(12)})


@pytest.fixture
def make(files: list[str]) -> Iterator[Make]:
    made: list[ReaderPool] = []

    def start(of: list[str] = files, count: int = 2, slots: int = 32) -> ReaderPool:
        made.append(ReaderPool(of, IMGSZ, count, slots, CPU))
        return made[-1]

    yield start
    for one in made:
        one.close(10)


def taken(pool: ReaderPool, indices: list[int]) -> dict[int, np.ndarray | None]:
    """Pixels by index, None for a refused one."""
    found: dict[int, np.ndarray | None] = {}
    for one in pool.take(indices):
        index = one.index if isinstance(one, Fetched) else one
        assert index not in found
        found[index] = one.image.numpy().copy() if isinstance(one, Fetched) and one.image is not None else None
    return found


def expected(file: str) -> np.ndarray:
    return fit_array(plain.decode(file), IMGSZ)


@pytest.mark.parametrize("slots", [1, 3, 32])
def test_each_comes_once_and_whole(make: Make, files: list[str], slots: int):
    pool = make(slots=slots)
    for _ in range(3):
        pool.ask(range(len(files)))
        found = taken(pool, list(range(len(files))))
        assert found.keys() == set(range(len(files)))
        assert all(np.array_equal(found[index], expected(file)) for index, file in enumerate(files))


def test_what_was_asked_for_is_known_until_it_is_taken(make: Make):
    pool = make()
    pool.ask([1, 2])
    assert 1 in pool
    assert 3 not in pool
    assert taken(pool, [1, 3]).keys() == {1}
    assert 1 not in pool
    assert 2 in pool


def test_pictures_that_nobody_takes_do_not_block_others(make: Make):
    pool = make(slots=4)
    pool.ask(range(4))  # they have all slots
    pool.ask([8, 9])
    found = taken(pool, [8, 9])
    assert found.keys() == {8, 9}
    assert all(image is None for image in found.values())  # refused: threads read them
    assert all(image is not None for image in taken(pool, [0, 1, 2, 3]).values())


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_of_a_killed_process_are_refused_and_the_others_go_on(
    make: Make, files: list[str], capsys: pytest.CaptureFixture[str], count: int
):
    pool = make(count=count)
    pid = pool._children[0].process.pid
    os.kill(pid, signal.SIGSTOP)  # it will not answer what it is asked for
    pool.ask(range(len(files)))
    os.kill(pid, signal.SIGKILL)
    found = taken(pool, list(range(len(files))))
    assert found.keys() == set(range(len(files)))
    refused = [index for index, image in found.items() if image is None]
    assert refused
    assert (len(refused) == len(files)) is (count == 1)
    told = capsys.readouterr().err
    assert "a reading process ended (exit code -9)" in told
    assert ("threads read from now on" if count == 1 else "2 others go on") in told
    pool.ask(range(len(files)))
    again = taken(pool, list(range(len(files))))
    assert all((image is None) is (count == 1) for image in again.values())


def test_closing_ends_them_in_the_middle_of_their_work(make: Make, files: list[str]):
    pool = make()
    pool.ask(range(len(files)))
    children = [child.process for child in pool._children]
    assert pool.close(10) == 0
    assert all(child.poll() is not None for child in children)
    assert pool.close(10) == 0


def test_a_reader_that_does_not_answer_ends_too(make: Make):
    pool = make()
    os.kill(pool._children[0].process.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    assert pool.close(20) == 0
    assert time.monotonic() - began_s < 10


def test_one_that_can_not_be_ended_is_counted(make: Make, monkeypatch: pytest.MonkeyPatch):
    pool = make()
    process = pool._children[0].process
    with monkeypatch.context() as patched:
        patched.setattr(process, "wait", lambda timeout: (_ for _ in ()).throw(subprocess.TimeoutExpired("", timeout)))
        assert pool.close(10) == 1
    process.wait(10)


def test_asking_never_waits_for_a_reader(make: Make, tmp_path: Path):
    """Requests of 8 MB, and nobody reads them."""
    pool = make([f"{tmp_path}/{number}{'x' * 2000}.jpg" for number in range(4000)], count=1, slots=4000)
    os.kill(pool._children[0].process.pid, signal.SIGSTOP)
    pool.ask(range(4000))
    assert 0 < len(pool._children[0].asked) < 100
    assert all(index in pool for index in range(4000))
    assert pool.close(10) == 0


def test_all_is_answered_though_the_pipe_holds_little(make: Make, files: list[str]):
    pool = make()
    for child in pool._children:
        child.room = 1
    pool.ask(range(len(files)))
    assert all(image is not None for image in taken(pool, list(range(len(files)))).values())


def test_it_ends_at_once_though_a_forked_process_lives_on(make: Make):
    pool = make()
    children = [child.process for child in pool._children]
    forked = os.fork()
    if not forked:
        time.sleep(60)
        os._exit(0)
    try:
        for child in pool._children:
            child.close()  # as the end of this process would
        for process in children:
            assert process.wait(10) == 0  # by the end of its input
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)


def test_signals_to_a_group_are_for_the_parent(make: Make, files: list[str]):
    pool = make()
    pool.ask([0, 1])
    assert len(taken(pool, [0, 1])) == 2  # they have begun
    for child in pool._children:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            child.process.send_signal(number)
    pool.ask(range(len(files)))
    assert all(image is not None for image in taken(pool, list(range(len(files)))).values())


def test_files_where_it_was_started_stand_in_for_nothing(
    make: Make, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("cv2", "numpy", "struct", "yolov12"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this one')")
    monkeypatch.chdir(tmp_path)
    pool = make()
    pool.ask([0])
    assert taken(pool, [0])[0] is not None


def test_a_reader_is_one_thread(make: Make):
    pool = make(count=1)
    pool.ask([0])
    taken(pool, [0])
    assert len(os.listdir(f"/proc/{pool._children[0].process.pid}/task")) == 1


def test_where_one_can_not_be_started_nothing_is_left(files: list[str], monkeypatch: pytest.MonkeyPatch):
    start, started = reader_pool._start, []

    def second_fails(*arguments: Any) -> Any:
        if started:
            raise OSError("Resource temporarily unavailable")
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(reader_pool, "_start", second_fails)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="temporarily"):
        ReaderPool(files, IMGSZ, 2, 32, CPU)
    assert started[0].process.poll() is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pool_that_is_closed_keeps_no_descriptor(files: list[str]):
    before = len(os.listdir("/proc/self/fd"))
    pool = ReaderPool(files, IMGSZ, 2, 32, CPU)
    pool.ask([0])
    taken(pool, [0])
    pool.close(10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_it_would_refuse_it_does_not_serve(make: Make, files: list[str]):
    pool = make([*files, "scan.TIFF"])
    assert pool.serves(0)
    assert not pool.serves(len(files))
    pool.close(10)
    assert not pool.serves(0)


def test_whoever_waits_goes_on_when_it_is_stopped(make: Make, capsys: pytest.CaptureFixture[str]):
    pool = make()
    for child in pool._children:
        os.kill(child.process.pid, signal.SIGSTOP)
    pool.ask([0, 1])
    timer = threading.Timer(0.2, pool.stop)
    timer.start()
    assert taken(pool, [0, 1]) == {0: None, 1: None}
    timer.join()
    assert "ended" not in capsys.readouterr().err


def test_an_answer_in_pieces_is_put_together(make: Make, files: list[str], monkeypatch: pytest.MonkeyPatch):
    pool = make()
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, most: read(descriptor, min(most, 7)))
    pool.ask(range(len(files)))
    assert all(image is not None for image in taken(pool, list(range(len(files)))).values())


@pytest.mark.parametrize("slots", [3, 64])
def test_with_them_a_gatherer_has_the_same_pictures_and_names_the_same_failures(tmp_path: Path, slots: int):
    files = zoo.write(tmp_path, zoo.USABLE | zoo.UNUSABLE)
    everything = range(len(files))
    gatherers = [
        Gatherer(files, IMGSZ, Store(len(files), IMGSZ, CPU), threads=2, readers=pool)
        for pool in (None, ReaderPool(files, IMGSZ, 2, slots, CPU))
    ]
    by_threads, by_pool = (gatherer.bring(everything) for gatherer in gatherers)
    assert by_threads
    assert by_pool == by_threads
    plainly, ours = gatherers
    assert ours.original == plainly.original
    for index in everything:
        assert (index in ours.store) is (index in plainly.store)
        assert index not in ours.store or torch.equal(ours.store[index], plainly.store[index])
    for gatherer in gatherers:
        gatherer.close()
