# SPDX-License-Identifier: AGPL-3.0-or-later
"""Slots are given away anew once they were copied; with a stand-in for CUDA. On a GPU: tests/gpu/test_loader.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolov12.data.loader.slots import Slots

GPU = torch.device("cuda")


class Event:
    """A copy that is made when `done` says so, or when it is waited for."""

    made: list[Event] = []

    def __init__(self) -> None:
        self.done = False
        Event.made.append(self)

    def record(self, stream: Any) -> None: ...

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = True


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What CUDA was asked to do."""
    calls = SimpleNamespace(registered=[], unregistered=[], answer=0)

    def register(pointer: int, size: int, flags: int) -> int:
        calls.registered.append(pointer)
        return calls.answer

    cudart = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=calls.unregistered.append)
    Event.made = []
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return calls


def test_on_a_cpu_a_slot_is_free_at_once():
    slots = Slots(2, 12, torch.device("cpu"))
    slots.pin()
    first = slots.take()
    slots.picture(first, 2, 2).fill_(7)
    assert len(slots) == 1
    slots.give_back([first])
    assert len(slots) == 2
    slots.close()
    slots.close()


def test_on_a_gpu_it_is_free_once_the_copy_is_made(driver):
    slots = Slots(3, 12, GPU)
    slots.pin()
    taken = [slots.take() for _ in range(3)]
    slots.give_back(taken[:2])
    slots.give_back(taken[2:])
    assert not slots.reclaim(wait=False)
    assert slots.reclaim(wait=True)  # for the first only
    assert len(slots) == 2
    Event.made[1].done = True
    assert slots.reclaim(wait=False)
    assert len(slots) == 3
    assert not slots.reclaim(wait=True)
    slots.close()
    assert driver.registered == driver.unregistered


def test_closing_waits_for_copies_before_the_memory_goes(driver):
    slots = Slots(1, 12, GPU)
    slots.pin()
    slots.give_back([slots.take()])
    slots.close()
    assert Event.made[0].done
    assert len(driver.unregistered) == 1


def test_memory_that_can_not_be_pinned_is_an_error_and_not_unregistered(driver):
    driver.answer = 304
    slots = Slots(1, 12, GPU)
    with pytest.raises(OSError, match="CUDA error 304 in pinning"):
        slots.pin()
    slots.close()
    assert not driver.unregistered


def test_without_shared_memory_nothing_is_left(monkeypatch: pytest.MonkeyPatch):
    import os

    before = len(os.listdir("/proc/self/fd"))

    def full(descriptor: int, size: int) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(OSError, match="no room"):
        Slots(1, 12, torch.device("cpu"))
    assert len(os.listdir("/proc/self/fd")) == before
