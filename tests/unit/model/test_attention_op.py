# SPDX-License-Identifier: AGPL-3.0-or-later
"""The layout: whatever the convolution wrote, kernels get rows, and what they return is channels_last without a copy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov12.model.attention.op import merge_heads, split_heads

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("area", [1, 4])
def test_q_k_and_v_have_rows_of_stride_1(layout, area):
    qkv = torch.randn(2, 3 * 4 * 32, 8, 6).to(memory_format=LAYOUTS[layout])
    for part in split_heads(qkv, heads=4, head_dim=32, area=area):
        assert part.shape == (2 * area, 48 // area, 4, 32)
        assert part.stride(-1) == 1


def test_splitting_what_is_channels_last_copies_nothing():
    qkv = torch.randn(2, 192, 8, 8).to(memory_format=torch.channels_last)
    assert all(_same_memory(part, qkv) for part in split_heads(qkv, heads=2, head_dim=32, area=4))


def test_merging_what_a_kernel_returns_copies_nothing_and_is_channels_last():
    out = torch.randn(8, 16, 2, 32)  # a fused kernel's output: batch * area, tokens, heads, head_dim, contiguous
    merged = merge_heads(out, batch=2, height=8, width=8)
    assert merged.shape == (2, 64, 8, 8)
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert _same_memory(merged, out)


def test_channels_are_packed_per_head_as_q_then_k_then_v():
    # one pixel, two heads of two channels: the channel number tells where each went
    qkv = torch.arange(12.0).view(1, 12, 1, 1)
    q, k, v = split_heads(qkv, heads=2, head_dim=2, area=1)
    assert q.flatten().tolist() == [0, 1, 6, 7]
    assert k.flatten().tolist() == [2, 3, 8, 9]
    assert v.flatten().tolist() == [4, 5, 10, 11]


def test_areas_are_runs_of_rows():
    # a 4 x 2 map in two areas: the first holds the upper two rows
    qkv = torch.arange(8.0).view(1, 1, 4, 2).repeat(1, 3, 1, 1)
    q, _, _ = split_heads(qkv, heads=1, head_dim=1, area=2)
    assert q.flatten(1).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 9),
    area=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_merging_v_gives_back_its_channels(batch, heads, head_dim, area, height, width, layout):
    height *= area
    qkv = torch.randn(batch, 3 * heads * head_dim, height, width).contiguous(memory_format=LAYOUTS[layout])
    v = split_heads(qkv, heads, head_dim, area)[2]
    expected = qkv.unflatten(1, (heads, 3, head_dim))[:, :, 2].flatten(1, 2)
    assert torch.equal(merge_heads(v, batch, height, width), expected)
