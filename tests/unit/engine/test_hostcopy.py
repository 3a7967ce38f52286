# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies equal their originals, and stand in for them in what is saved."""

from __future__ import annotations

import io

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from yolov12.engine.hostcopy import fetch, serialize

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


def test_only_floats_are_converted() -> None:
    weight, count = torch.rand(3), torch.tensor(7)
    copies = fetch([weight, count], floats_as=torch.float16)
    assert copies[id(weight)].dtype is torch.float16
    assert copies[id(count)].dtype is torch.int64


def test_each_copy_has_a_storage_of_its_own() -> None:
    """Else a tool that saves one of them would write all of them."""
    tensors = [torch.rand(1000), torch.rand(2)]
    assert fetch(tensors)[id(tensors[1])].untyped_storage().nbytes() == 8


def test_what_is_saved_holds_the_copies_and_the_originals_stay() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = [*module.parameters(), *module.buffers()]
    saved = serialize({"module": module, "note": 1}, fetch(tensors, torch.float16))
    loaded = torch.load(io.BytesIO(saved), weights_only=False)
    assert loaded["note"] == 1
    assert {name: type(p) for name, p in loaded["module"].named_parameters()}["0.weight"] is nn.Parameter
    for name, tensor in before.items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded["module"].state_dict()[name], expected)
        assert torch.equal(module.state_dict()[name], tensor)
        assert module.state_dict()[name].dtype is tensor.dtype


def test_a_tensor_in_two_places_is_saved_as_one() -> None:
    shared = torch.rand(5)
    loaded = torch.load(io.BytesIO(serialize([shared, shared], fetch([shared]))), weights_only=False)
    assert loaded[0] is loaded[1]
