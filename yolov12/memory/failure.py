# SPDX-License-Identifier: AGPL-3.0-or-later
"""Recognise a lack of device memory, under all the names it comes by, and make room after one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar
from weakref import WeakSet

import torch

from yolov12.uncollected import collect

T = TypeVar("T")

DISGUISES = (
    # The driver's and the allocator's own: "CUDA out of memory", "CUDA error: out of memory", Triton's and NVRTC's.
    "out of memory",
    # cuBLAS has no memory for its handle or its workspace. After a handle exists, NOT_INITIALIZED is a bug, so the call is part of the text.
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized when calling `cublascreate",
    # cuDNN could not load its kernels onto the device (pytorch#81620), or in version 9: ..._DEVICE_ALLOCATION_FAILED.
    "cudnn_status_internal_error",
    "cudnn_status_alloc_failed",
    # What torch says when cuDNN declines a layer, most often a workspace or a batch that is too large (pytorch#44473).
    "cudnn_status_not_supported. this error may appear if you passed in a non-contiguous input",
    # No algorithm of cuDNN could be run, as when none gets its workspace.
    "unable to find an engine to execute this computation",
)
"""In lower case. A bug may hide behind some of them; it fails again however little memory a step needs, and then the run ends with it."""

WAITS_S = (0.0, 0.5, 2.0, 8.0)
"""Before each further try of something that can not be made smaller: what is short may have been taken by a neighbour for a moment. In all it
is far below what peers wait for a vote."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device ran out of memory, directly or in cuBLAS' or cuDNN's words."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in DISGUISES)


def one_line(error: BaseException) -> str:
    """What failed, for logs and votes."""
    return headline(f"{type(error).__name__}: {error}")


def headline(text: str) -> str:
    """The line of an exception's text that says what happened: the first, or, where torch relays a loader's worker, the last of its traceback."""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    if "in DataLoader worker process" in lines[0]:
        return f"{lines[-1].strip()[:270]} (in a loader's worker)"
    return lines[0][:300]


_givers: WeakSet[Giver] = WeakSet()


class Giver(Protocol):
    """Holds memory that it can do without."""

    def drop(self) -> None:
        """Give it back."""


def drop_when_short(giver: Giver) -> None:
    """Ask it to give its memory back, for as long as it lives, wherever room is made after a failure."""
    _givers.add(giver)


def release_memory() -> None:
    """Give what the allocator keeps for later back to the device, where a block of another size may be cut from it."""
    for giver in list(_givers):
        giver.drop()
    collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def again(run: Callable[[], T], tell: Callable[[str], None]) -> T:
    """`run()`, a few times if it runs out of memory, each after what the allocator keeps was released; the last error is raised as it is.

    Args:
        run: something that can not be made smaller and may be repeated as a whole.
        tell: is given one line before each further try.
    """
    for wait_s in WAITS_S:
        try:
            return run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = one_line(error)
        tell(f"out of memory ({failure}); tried again in {wait_s:g} s")
        release_memory()
        time.sleep(wait_s)
    return run()
