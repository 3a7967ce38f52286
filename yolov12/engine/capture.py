# SPDX-License-Identifier: AGPL-3.0-or-later
"""Capturing a CUDA graph so that a capture that fails leaves nothing behind.

`torch.cuda.graph` (torch/cuda/graphs.py, 2.11) ends a capture in its `__exit__`, and where the driver refuses that, as it does after any
forbidden call, what would have followed is left out: the capture's stream stays the current one, the allocator goes on as if a capture were under
way (memory that crossed streams is then never given back), and the next random number on the GPU raises.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_one_at_a_time = threading.Lock()
"""torch allows one capture in a process (torch/cuda/graphs.py:223), and entering one waits for the whole device."""


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any = None, stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """Work on the current device is captured into `graph`; other threads go on meanwhile, and their work is no part of it.

    Args:
        graph: a new one.
        pool: of memory that it shares with other graphs (torch.cuda.graph_pool_handle); None: it has one of its own.
        stream: that is captured; None: torch's own for that.

    Raises:
        Exception: whatever the captured work or the driver raised; `first_cause` finds what began it.
    """
    device, pool = torch.cuda.current_device(), pool or torch.cuda.graph_pool_handle()
    try:
        # The stream of before is put back whether or not torch does.
        with (
            _one_at_a_time,
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"),
        ):
            yield
    except BaseException:
        _end(device, pool)
        raise


def first_cause(error: BaseException) -> BaseException:
    """The error in whose handling `error` was raised: the end of a broken capture only says that it is broken."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return error


def _end(device: int, pool: Any) -> None:
    """What torch leaves out; where it did not, this does nothing."""
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:  # the capture was ended, or never begun
        return
    torch._C._cuda_releasePool(device, pool)
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())  # a copy is not in the middle of a capture
