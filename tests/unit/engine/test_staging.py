# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures become the numbers that ultralytics makes of them, whatever was sent before. The way to a GPU: tests/gpu/test_predict.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov12.engine.staging import Staging, gathered, normalised

CPU = torch.device("cpu")


def ultralytics_way(pictures: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    """engine/predictor.py:193-200."""
    im = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    if im.shape[1] == 3:
        im = im.flip(1)
    return im.to(dtype).div_(255)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3, 4]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    seed=st.integers(0, 1000),
)
def test_any_batch(count, height, width, channels, dtype, seed):
    noise = np.random.default_rng(seed)
    pictures = [noise.integers(0, 256, (height, width, channels), np.uint8) for _ in range(count)]
    ours, theirs = normalised(Staging(CPU).send(pictures), dtype), ultralytics_way(pictures, dtype)
    assert torch.equal(ours, theirs)
    assert ours.dtype == theirs.dtype
    assert ours.is_contiguous()


def test_what_was_sent_stays_when_the_room_is_used_again():
    staging = Staging(CPU)
    small, large = (np.full((2, size, 3), size, np.uint8) for size in (4, 6))
    sent = [staging.send([one]) for one in (small, large, small)]
    assert [tensor.unique().tolist() for tensor in sent] == [[4], [6], [4]]


def test_the_room_grows_to_the_largest_batch_and_no_further():
    staging = Staging(CPU)
    staging.send([np.zeros((4, 4, 3), np.uint8)] * 3)
    room = staging._room.data_ptr()
    staging.send([np.zeros((4, 4, 3), np.uint8)] * 2)
    assert staging._room.data_ptr() == room
    assert staging._room.numel() == 3 * 4 * 4 * 3


def test_what_was_gathered_has_memory_of_its_own_and_the_pixels():
    pictures = [np.full((2, 3, 3), value, np.uint8) for value in (1, 2)]
    first, second = gathered(pictures, CPU), gathered(pictures[::-1], CPU)
    assert first[..., 0].tolist() == [[[1] * 3] * 2, [[2] * 3] * 2]
    assert torch.equal(first.flip(0), second)
    assert np.shares_memory(first.numpy(), pictures[0]) is False


def test_pictures_that_are_no_stack_in_memory():
    """Cut out of a larger one, or mirrored."""
    whole = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    pictures = [whole[::2, 4:], whole[::-2, :4]]
    assert torch.equal(normalised(Staging(CPU).send(pictures), torch.float32), ultralytics_way(pictures, torch.float32))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(*[st.integers(1, 20)] * 2, st.sampled_from([1, 3, 4])), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_pictures_of_any_sizes_arrive_apart(sizes, seed):
    noise = np.random.default_rng(seed)
    pictures = [noise.integers(0, 256, size, np.uint8) for size in sizes]
    sent = Staging(CPU).send_apart(pictures)
    assert all(np.array_equal(one.numpy(), picture) for one, picture in zip(sent, pictures, strict=True))
    assert all(one.is_contiguous() for one in sent)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="could not broadcast"):
        Staging(CPU).send([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)])


def test_without_page_locked_memory_pictures_lie_in_ordinary_memory_and_a_line_says_so(monkeypatch, capsys):
    torch_empty = torch.empty

    def without(*shape, pin_memory: bool = False, **options) -> Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return torch_empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", without)
    pictures = [np.full((2, 3, 3), level, np.uint8) for level in (1, 2)]
    for _ in range(2):
        assert np.array_equal(gathered(pictures, torch.device("cuda")).numpy(), np.stack(pictures))
    said = capsys.readouterr().err
    assert said.count("no page-locked memory for pictures: RuntimeError: CUDA error: out of memory") == 1
