# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cutting a batch loses and repeats nothing."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov12.memory.micro_batch import split


def made(boxes_per_image: list[int]) -> dict:
    total = sum(boxes_per_image)
    return {
        "img": torch.arange(len(boxes_per_image)).view(-1, 1, 1, 1).float(),
        "batch_idx": torch.cat([torch.full((n,), float(i)) for i, n in enumerate(boxes_per_image)]),
        "cls": torch.arange(total).view(-1, 1).float(),
        "bboxes": torch.arange(total).view(-1, 1).float().expand(-1, 4),
        "im_file": tuple(str(i) for i in range(len(boxes_per_image))),
        "epoch_note": "kept",
    }


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 15))
def test_parts_hold_every_image_and_box_once_and_in_order(boxes_per_image: list[int], parts: int) -> None:
    batch = made(boxes_per_image)
    cut = split(batch, parts)
    assert len(cut) == min(parts, len(boxes_per_image))
    assert torch.equal(torch.cat([part["img"] for part in cut]), batch["img"])
    assert torch.equal(torch.cat([part["cls"] for part in cut]), batch["cls"])
    assert torch.equal(torch.cat([part["bboxes"] for part in cut]), batch["bboxes"])
    assert [name for part in cut for name in part["im_file"]] == list(batch["im_file"])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 15))
def test_a_box_still_belongs_to_its_image(boxes_per_image: list[int], parts: int) -> None:
    batch = made(boxes_per_image)
    owner = batch["img"].flatten()[batch["batch_idx"].long()]
    owners = [part["img"].flatten()[part["batch_idx"].long()] for part in split(batch, parts)]
    assert torch.equal(torch.cat(owners), owner)


@given(st.integers(1, 40), st.integers(1, 40))
def test_part_sizes_differ_by_at_most_one(images: int, parts: int) -> None:
    sizes = [len(part["img"]) for part in split(made([0] * images), parts)]
    assert max(sizes) - min(sizes) <= 1


def test_one_part_is_the_batch_itself() -> None:
    batch = made([1, 2])
    assert split(batch, 1)[0] is batch


def test_what_is_not_per_image_goes_into_every_part() -> None:
    assert [part["epoch_note"] for part in split(made([1, 1]), 2)] == ["kept", "kept"]
