# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranks that were not started alike all end, before anything is trained, and each says what differs. gloo, no GPU."""

from __future__ import annotations

import pytest
import torch

from tests.dist.ranks import run
from yolov12.distributed import agreement, world
from yolov12.errors import UserError


def _compared(rank: int, only_warn: tuple[str, ...]) -> None:
    group = world.join(world.from_environment(), torch.device("cpu"), 60, 60)
    agreement.check({"torch": f"2.{rank}", "imgsz": 640 + rank, "batch": 8}, group, only_warn)


@pytest.mark.parametrize(
    ("only_warn", "ends"),
    [
        ((), "the ranks of this run differ in torch (2.0 on rank 0; 2.1 on rank 1), imgsz (640 on rank 0; 641 on rank 1): start all of them"),
        (("torch", "imgsz"), None),
    ],
)  # fmt: skip
def test_all_ranks_end_with_all_differences(only_warn: tuple[str, ...], ends: str | None) -> None:
    answers = run(_compared, 2, only_warn)
    if ends is None:
        assert answers == [None, None]
        return
    for answer in answers:
        assert isinstance(answer, UserError)
        assert str(answer).startswith(ends)
