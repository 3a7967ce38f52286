# SPDX-License-Identifier: AGPL-3.0-or-later
"""Out of memory is recognised under all its names, and nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch

from yolov12.memory import failure
from yolov12.memory.failure import again, drop_when_short, is_out_of_memory, one_line, release_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
        ),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_a_lack_of_memory_is_recognised(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("expected scalar type Half"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),
        MemoryError("host"),
    ],
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


def test_an_error_in_one_line_names_its_kind() -> None:
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(ValueError()) == "ValueError: "


def test_of_a_loaders_worker_the_line_that_says_what_happened_is_told() -> None:
    relayed = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  File ...\nValueError: 7.jpg is broken\n"
    assert one_line(ValueError(relayed)) == "ValueError: 7.jpg is broken (in a loader's worker)"


class Short:
    """Raises so often."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.left:
            raise self.error
        return "done"


def test_what_ran_out_of_memory_for_a_moment_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "WAITS_S", (0.0, 0.0))
    said: list[str] = []
    assert again(Short(2, RuntimeError("out of memory")), said.append) == "done"
    assert len(said) == 2


def test_what_always_runs_out_of_memory_raises_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "WAITS_S", (0.0, 0.0))
    short = Short(9, RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        again(short, lambda line: None)
    assert short.calls == 3


def test_another_error_is_not_tried_again() -> None:
    short = Short(9, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        again(short, lambda line: None)
    assert short.calls == 1
