# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many ranks a run has, here and on all machines."""

from __future__ import annotations

from typing import Any

import pytest

from yolov12.distributed import ranks
from yolov12.distributed.launchers import Machines, World
from yolov12.errors import UserError


def machines(local_size: int = 0) -> Machines:
    return Machines(0, 2, "a", 1, "Kubeflow", "the test says so", local_size)


@pytest.mark.parametrize(
    ("here", "found", "device", "counts"),
    [
        (World(), None, "cpu", (1, 1)),
        (World(), None, None, (1, 1)),
        (World(), None, "0,1", (2, 2)),
        (World(), None, [0, 1, 2], (3, 3)),
        (World(1, 4, 2, True, local_rank=1), None, "0,1", (2, 4)),
        (World(), machines(), "", (1, 2)),
        (World(), machines(), "cpu", (1, 2)),
        (World(), machines(), "0,1", (2, 4)),
        (World(), machines(2), "cuda:0,1", (2, 4)),
        (World(), machines(3), "cpu", (3, 6)),
        (World(), machines(4), None, (4, 8)),
    ],
)
def test_a_rank_for_each_gpu_or_what_the_launcher_started_or_wants(
    here: World, found: Machines | None, device: Any, counts: tuple[int, int]
) -> None:
    assert (ranks.of_this_machine(here, found, device), ranks.of_all_machines(here, found, device)) == counts


@pytest.mark.parametrize(
    ("device", "names"), [("0", "device=0 names 1 GPU,"), ([0, 1, 2], "device=0,1,2 names 3 GPUs,")]
)
def test_a_launcher_and_a_device_argument_that_disagree_are_refused(device: Any, names: str) -> None:
    for count in (ranks.of_this_machine, ranks.of_all_machines):
        with pytest.raises(UserError, match=f"{names} and Kubeflow asks for 2 processes on each machine: leave device"):
            count(World(), machines(2), device)
