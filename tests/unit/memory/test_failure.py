# SPDX-License-Identifier: AGPL-3.0-or-later
"""Out of memory is recognised under all its names, and nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch

from yolov12.memory.failure import drop_when_short, is_out_of_memory, release_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_a_lack_of_memory_is_recognised(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("expected scalar type Half"), ValueError("out of memory"), MemoryError("host")]
)
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_where_room_is_made_others_give_their_memory_back_while_they_live():
    given: list[str] = []

    class Holder:
        def drop(self) -> None:
            given.append("given")

    holder = Holder()
    drop_when_short(holder)
    release_memory()
    del holder
    release_memory()
    assert given == ["given"]
