# SPDX-License-Identifier: AGPL-3.0-or-later
"""The check of the links between ranks, on two gloo ranks of the CPU with tiny messages. What it measures is not looked at, only that it does."""

from __future__ import annotations

import pytest
import torch

from tests.dist.ranks import run
from yolov12.distributed import world
from yolov12.tools import nccl_check

TINY = ["-b", "8", "-e", "1K", "-f", "16", "-n", "2", "-w", "1"]


def _lines(rank: int, program: str) -> list[str]:
    del rank
    ranks = nccl_check.Ranks(world.from_environment(), torch.device("cpu"), timeout_s=60)
    options = nccl_check.parse([program, *TINY])
    return [line for part in nccl_check.PROGRAMS[program](ranks, options) for line in part.splitlines()]


def test_each_size_of_an_all_reduce_is_measured_and_summed_right():
    lines, of_the_other = run(_lines, 2, "all_reduce_perf")
    assert lines == of_the_other, "all ranks must agree on what was measured"
    assert nccl_check.OURS in lines[0]
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [row[0] for row in rows] == ["8", "128"]
    assert all(float(row[5]) > 0 for row in rows)
    assert "# Out of bounds values : 0 OK" in lines


def test_each_pair_is_measured_in_both_directions():
    lines, of_the_other = run(_lines, 2, "p2pBandwidthLatencyTest")
    assert lines == of_the_other
    rows = [line.split() for line in lines if line.split()[0] in ("0", "1")]
    assert len(rows) == 4, "two ranks in two tables"
    for rank, *cells in rows:
        assert cells[int(rank)] == "-"
        assert float(cells[1 - int(rank)]) >= 0


def _wrong(rank: int, spoiled: bool) -> int:
    ranks = nccl_check.Ranks(world.from_environment(), torch.device("cpu"), timeout_s=60)
    if spoiled and rank == 1:
        ranks.rank = 5  # sends what nobody expects
    return ranks.all_reduce_wrong(64)


@pytest.mark.parametrize(("spoiled", "expected"), [(False, 0), (True, 32)])
def test_a_wrong_sum_is_counted_on_every_rank(spoiled: bool, expected: int):
    assert run(_wrong, 2, spoiled) == [expected, expected]
