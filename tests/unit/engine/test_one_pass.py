# SPDX-License-Identifier: AGPL-3.0-or-later
"""A loader of one pass reads each picture once, has no worker left afterwards, and may be gone through again."""

from __future__ import annotations

from multiprocessing import active_children
from pathlib import Path

import pytest
from torch.utils.data import BatchSampler, Dataset, SequentialSampler
from ultralytics.data.build import InfiniteDataLoader

from yolov12.engine.one_pass import once


class Noting(Dataset[int]):
    """Five numbers, each read of which leaves a byte in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        with self.file.open("ab") as file:
            file.write(b".")
        return index


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("own_sampler", [False, True])
def test_each_is_read_once_and_nobody_is_left(workers: int, own_sampler: bool, tmp_path: Path) -> None:
    others = set(active_children())
    data = Noting(tmp_path / "reads")
    batches = {"batch_sampler": BatchSampler(SequentialSampler(data), 2, False)} if own_sampler else {"batch_size": 2}
    loader = InfiniteDataLoader(data, num_workers=workers, **batches)
    once(loader)
    assert len(loader) == 3
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
        loader.reset()
        assert not set(active_children()) - others
    assert len(data.file.read_bytes()) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_it_may_be_gone_through_again_however_a_pass_ended(workers: int, tmp_path: Path) -> None:
    """By a validator that is called again, or by a callback that looks for the pictures."""
    loader = InfiniteDataLoader(Noting(tmp_path / "reads"), num_workers=workers, batch_size=2)
    once(loader)
    next(iter(loader))
    for _ in range(3):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    loader.reset()
