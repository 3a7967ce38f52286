# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run a function on several gloo ranks of this machine and collect what each returns."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def run(function: Callable[..., Any], size: int, *args: Any, timeout_s: int = 150) -> list[Any]:
    """Call `function(rank, *args)` in `size` new processes that share a gloo group; return their answers in rank order.

    An exception of a rank is returned in place of its answer, so that a test can look at how each rank ended.
    """
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    port = _free_port()
    ranks = [
        context.Process(target=_rank, args=(function, rank, size, port, answers, args), daemon=True)
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    try:
        collected = dict(torch.load(io.BytesIO(answers.get(timeout=timeout_s)), weights_only=False) for _ in ranks)
    finally:
        for process in ranks:
            process.join(timeout=20)
            process.kill()
    return [collected[rank] for rank in range(size)]


def _rank(function: Callable[..., Any], rank: int, size: int, port: int, answers: Any, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank)
    )
    try:
        answer = function(rank, *args)
    except Exception as error:  # noqa: BLE001  # handed to the test, which says what it expected
        answer = error
    # As bytes: a tensor would travel as shared memory, which is gone when this process ends.
    packed = io.BytesIO()
    torch.save((rank, answer), packed)
    answers.put(packed.getvalue())
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
