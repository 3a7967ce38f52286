# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading processes: every picture comes once and whole, with few places too, and whatever happens to a process is answered."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.data.loader import zoo
from yolov12.data.fit import fit_array
from yolov12.data.loader import plain
from yolov12.data.loader.fetch import Fetched
from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.processes import Processes
from yolov12.data.loader.store import Store

IMGSZ = 48
CPU = torch.device("cpu")
Make = Callable[..., Processes]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return zoo.write(tmp_path, {f"{number}.jpg": zoo.USABLE["photo.jpg"] for number in range(12)})


@pytest.fixture
def make(files: list[str]) -> Iterator[Make]:
    made: list[Processes] = []

    def start(of: list[str] = files, count: int = 2, places: int = 32) -> Processes:
        made.append(Processes(of, IMGSZ, count, places, CPU))
        return made[-1]

    yield start
    for one in made:
        one.close(10)


def taken(processes: Processes, indices: list[int]) -> dict[int, np.ndarray | None]:
    """Pixels by index, None for a refused one."""
    found: dict[int, np.ndarray | None] = {}
    for one in processes.take(indices):
        index = one.index if isinstance(one, Fetched) else one
        assert index not in found
        found[index] = one.image.numpy().copy() if isinstance(one, Fetched) and one.image is not None else None
    return found


def expected(file: str) -> np.ndarray:
    return fit_array(plain.decode(file), IMGSZ)


@pytest.mark.parametrize("places", [1, 3, 32])
def test_each_comes_once_and_whole(make: Make, files: list[str], places: int):
    processes = make(places=places)
    for _ in range(3):
        processes.ask(range(len(files)))
        found = taken(processes, list(range(len(files))))
        assert found.keys() == set(range(len(files)))
        assert all(np.array_equal(found[index], expected(file)) for index, file in enumerate(files))


def test_what_was_asked_for_is_known_until_it_is_taken(make: Make):
    processes = make()
    processes.ask([1, 2])
    assert 1 in processes
    assert 3 not in processes
    assert taken(processes, [1, 3]).keys() == {1}
    assert 1 not in processes
    assert 2 in processes


def test_pictures_that_nobody_takes_do_not_block_others(make: Make):
    processes = make(places=4)
    processes.ask(range(4))  # they have all places
    processes.ask([8, 9])
    found = taken(processes, [8, 9])
    assert found.keys() == {8, 9}
    assert all(image is None for image in found.values())  # refused: threads read them
    assert all(image is not None for image in taken(processes, [0, 1, 2, 3]).values())


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_of_a_killed_process_are_refused_and_the_others_go_on(
    make: Make, files: list[str], capsys: pytest.CaptureFixture[str], count: int
):
    processes = make(count=count)
    pid = processes._children[0].process.pid
    os.kill(pid, signal.SIGSTOP)  # it will not answer what it is asked for
    processes.ask(range(len(files)))
    os.kill(pid, signal.SIGKILL)
    found = taken(processes, list(range(len(files))))
    assert found.keys() == set(range(len(files)))
    refused = [index for index, image in found.items() if image is None]
    assert refused
    assert (len(refused) == len(files)) is (count == 1)
    told = capsys.readouterr().err
    assert "a reading process ended (exit code -9)" in told
    assert ("threads read from now on" if count == 1 else "2 others go on") in told
    processes.ask(range(len(files)))
    again = taken(processes, list(range(len(files))))
    assert all((image is None) is (count == 1) for image in again.values())


def test_closing_ends_them_in_the_middle_of_their_work(make: Make, files: list[str]):
    processes = make()
    processes.ask(range(len(files)))
    children = [child.process for child in processes._children]
    assert processes.close(10) == 0
    assert all(child.poll() is not None for child in children)
    assert processes.close(10) == 0


def test_one_that_does_not_end_is_killed(make: Make):
    processes = make()
    os.kill(processes._children[0].process.pid, signal.SIGSTOP)
    assert processes.close(0.2) == 1


def test_an_answer_in_pieces_is_put_together(make: Make, files: list[str], monkeypatch: pytest.MonkeyPatch):
    processes = make()
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, most: read(descriptor, min(most, 7)))
    processes.ask(range(len(files)))
    assert all(image is not None for image in taken(processes, list(range(len(files)))).values())


@pytest.mark.parametrize("places", [3, 64])
def test_with_them_a_gatherer_has_the_same_pictures_and_names_the_same_failures(tmp_path: Path, places: int):
    files = zoo.write(tmp_path, zoo.USABLE | zoo.UNUSABLE)
    everything = range(len(files))
    gatherers = [
        Gatherer(files, IMGSZ, Store(len(files), IMGSZ, CPU), threads=2, processes=processes)
        for processes in (None, Processes(files, IMGSZ, 2, places, CPU))
    ]
    by_threads, by_processes = (gatherer.bring(everything) for gatherer in gatherers)
    assert by_threads
    assert by_processes == by_threads
    plainly, ours = gatherers
    assert ours.original == plainly.original
    for index in everything:
        assert (index in ours.store) is (index in plainly.store)
        assert index not in ours.store or torch.equal(ours.store[index], plainly.store[index])
    for gatherer in gatherers:
        gatherer.close()
