# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies in flat buffers: equal bits of any tensors, in memory that is there only meanwhile."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolov12.engine import room as room_module
from yolov12.engine.room import ALIGNED_BYTES, Room

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of several dtypes, dense in either order, with gaps, or one number many times."""
    shape = draw(st.lists(st.integers(0, 4), min_size=0, max_size=4))
    made = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    made = made.to(draw(st.sampled_from(DTYPES)))
    match draw(st.sampled_from(["dense", "channels_last", "gaps", "expanded"])):
        case "channels_last" if len(shape) == 4:
            return made.to(memory_format=torch.channels_last)
        case "gaps" if len(shape) > 0:
            return made.repeat_interleave(2, -1)[..., ::2]
        case "expanded":
            return made.new_ones(()).expand(shape)
    return made


def memory(room: Room) -> int:
    return sum(bucket._storage.nbytes() for bucket in room._buckets)


@given(live=st.lists(tensors(), max_size=12))
def test_copies_are_equal_and_lie_where_operators_on_lists_are_fast(live: list[Tensor]) -> None:
    room = Room(live)
    for _ in range(2):
        assert memory(room) == 0
        pairs = room.take(live)
        assert sum(len(originals) for originals, _ in pairs) == len(live)
        for originals, copies in pairs:
            assert len({(copy.device, copy.dtype) for copy in copies}) == 1
            for original, copy in zip(originals, copies, strict=True):
                assert torch.equal(original, copy)
                assert copy.data_ptr() % ALIGNED_BYTES == 0
                assert copy.stride() == torch.empty_like(original).stride()
        room.release()


def test_the_same_views_serve_again() -> None:
    live = [torch.rand(3), torch.rand(2, 2)]
    room = Room(live)
    (_, first), *_ = room.take(live)
    room.release()
    (_, second), *_ = room.take(live)
    assert all(a is b for a, b in zip(first, second, strict=True))


def test_where_not_all_memory_can_be_had_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room([torch.rand(3), torch.zeros(3, dtype=torch.float64)])
    claim, calls = room_module._Bucket.claim, iter([False, True])

    def fails_at_the_second(bucket: room_module._Bucket) -> None:
        if next(calls):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        claim(bucket)

    monkeypatch.setattr(room_module._Bucket, "claim", fails_at_the_second)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        room.take([torch.rand(3), torch.zeros(3, dtype=torch.float64)])
    assert memory(room) > 0
    room.release()
    assert memory(room) == 0
