# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies equal their originals, wherever they lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolov12.engine.hostcopy import Copies

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=6)


def found(copies: Copies, original: Tensor) -> Tensor:
    piece = copies.piece(original)
    return copies.flats[piece.flat][piece.start : piece.start + piece.count].view(original.shape)


@given(
    SHAPES, st.lists(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]), min_size=6, max_size=6)
)
def test_copies_equal_their_originals(shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]) -> None:
    tensors = [
        torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
        for shape, dtype in zip(shapes, dtypes, strict=False)
    ]
    copies = Copies()
    made = copies.add(tensors)
    assert len(made) == len(copies.flats) == len({tensor.dtype for tensor in tensors})
    for tensor in tensors:
        assert torch.equal(found(copies, tensor), tensor)
        assert found(copies, tensor).dtype is tensor.dtype
        assert copies.piece(tensor).storage(copies.flats).nbytes() == tensor.nbytes


def test_a_channels_last_weight_becomes_contiguous() -> None:
    weight = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    copies = Copies()
    copies.add([weight])
    assert torch.equal(found(copies, weight), weight)


def test_as_it_lies_it_keeps_its_strides_and_what_has_gaps_becomes_contiguous() -> None:
    weights = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    depthwise = torch.rand(4, 1, 3, 3).to(memory_format=torch.channels_last)
    tensors = [weights, depthwise, weights[:, :2], torch.rand(2, 3).T, torch.tensor(1.0)]
    copies = Copies()
    copies.add(tensors, as_they_lie=True)
    pieces = [copies.piece(tensor) for tensor in tensors]
    kept = [(75, 1, 15, 3), depthwise.stride(), (50, 25, 5, 1), (2, 1), ()]
    assert [piece.strides for piece in pieces] == kept
    for tensor, piece in zip(tensors, pieces, strict=True):
        assert torch.equal(copies.flats[piece.flat].as_strided(tensor.shape, piece.strides, piece.start), tensor)


def test_copies_can_have_another_dtype() -> None:
    tensors = [torch.rand(3, dtype=torch.float64), torch.rand(2)]
    copies = Copies()
    copies.add(tensors, torch.float32)
    assert all(torch.equal(found(copies, tensor), tensor.float()) for tensor in tensors)


def test_what_has_a_copy_is_not_copied_again() -> None:
    first, second = torch.zeros(3), torch.ones(2)
    copies = Copies()
    copies.add([first])
    copies.add([first, second])
    assert [flat.numel() for flat in copies.flats] == [3, 2]


def test_what_has_none_is_copied_when_it_is_asked_for() -> None:
    late = torch.ones(2)
    copies = Copies()
    assert torch.equal(found(copies, late), late)


def test_a_copy_does_not_follow_its_original() -> None:
    alone = torch.ones(2)
    copies = Copies()
    copies.add([alone])
    alone.zero_()
    assert found(copies, alone).tolist() == [1, 1]


def test_where_the_device_has_no_room_for_one_flat_tensor_each_is_copied_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cat, tries = torch.cat, []

    def full_at_first(pieces: list[Tensor]) -> Tensor:
        tries.append(len(pieces))
        if len(tries) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return cat(pieces)

    tensors = [torch.rand(3, 2), torch.rand(4)]
    monkeypatch.setattr(torch, "cat", full_at_first)
    copies = Copies()
    copies.add(tensors)
    assert tries == [2, 2]
    assert all(torch.equal(found(copies, tensor), tensor) for tensor in tensors)
