# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who chooses how the allocator holds memory. What comes of it on a GPU: tests/gpu/test_memory.py."""

from __future__ import annotations

import pytest
import torch

from yolov12.memory import segments

GPU = torch.device("cuda", 0)


@pytest.fixture
def asked(monkeypatch):
    """What torch's allocator was asked for."""
    found = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", found.append)
    return found


def test_segments_grow_on_a_gpu(asked):
    assert segments.grow(GPU, environ={})
    assert asked == ["expandable_segments:True"]


def test_the_cpu_has_none(asked):
    assert not segments.grow(torch.device("cpu"), environ={})
    assert not asked


@pytest.mark.parametrize("name", segments.ASKED_BY_USERS)
def test_who_asked_for_something_gets_that_alone(asked, name):
    assert not segments.grow(GPU, environ={name: "max_split_size_mb:128"})
    assert not asked


def test_an_empty_variable_asks_for_nothing(asked):
    assert segments.grow(GPU, environ={"PYTORCH_ALLOC_CONF": ""})


def test_torch_takes_it():
    """The pinned torch has the function, and knows the option; it is undone at once."""
    torch._C._accelerator_setAllocatorSettings(segments.GROWING)
    torch._C._accelerator_setAllocatorSettings("expandable_segments:False")
