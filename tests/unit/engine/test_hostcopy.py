# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies equal their originals, and stand in for them in what is saved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from yolov12.engine.hostcopy import Frozen, fetch

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=6)


@given(SHAPES, st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]))
def test_copies_equal_their_originals(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    tensors = [torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype) for shape in shapes]
    copies = fetch(tensors)
    assert all(torch.equal(copies[id(tensor)], tensor) and copies[id(tensor)].dtype is dtype for tensor in tensors)


def test_a_channels_last_weight_becomes_contiguous() -> None:
    weight = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    copy = fetch([weight])[id(weight)]
    assert copy.is_contiguous()
    assert torch.equal(copy, weight)


def test_each_copy_has_a_storage_of_its_own() -> None:
    """Else a tool that saves one of them would write all of them."""
    tensors = [torch.rand(1000), torch.rand(2)]
    assert fetch(tensors)[id(tensors[1])].untyped_storage().nbytes() == 8


def test_where_the_device_has_no_room_for_one_flat_tensor_each_is_copied_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    tensors = [torch.rand(3, 2), torch.rand(4)]
    monkeypatch.setattr(torch, "cat", full)
    copies = fetch(tensors)
    assert all(torch.equal(copies[id(tensor)], tensor) for tensor in tensors)


def test_what_was_frozen_does_not_follow_the_original() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    frozen = Frozen({"module": module, "note": [1]}, fetch([*module.parameters(), *module.buffers()]))
    with torch.no_grad():
        module[0].weight.fill_(7)
    module.append(nn.ReLU())
    thawed = frozen.thaw()
    assert thawed["note"] == [1]
    assert len(thawed["module"]) == 2
    assert isinstance(thawed["module"][0].weight, nn.Parameter)
    assert all(torch.equal(thawed["module"].state_dict()[name], tensor) for name, tensor in before.items())


def test_copies_can_be_exchanged_when_it_is_thawed() -> None:
    weight, other = torch.rand(3), torch.rand(2)
    frozen = Frozen([weight, other], fetch([weight, other]))
    halved, same = frozen.thaw({id(weight): weight.half()})
    assert halved.dtype is torch.float16
    assert torch.equal(same, other)


def test_a_tensor_in_two_places_stays_one() -> None:
    shared = torch.rand(5)
    first, second = Frozen([shared, shared], fetch([shared])).thaw()
    assert first is second


def test_a_tensor_without_a_copy_does_not_follow_the_original_either() -> None:
    stride = torch.tensor([8.0, 16.0])
    frozen = Frozen({"stride": stride}, {})
    stride.zero_()
    assert frozen.thaw()["stride"].tolist() == [8.0, 16.0]
