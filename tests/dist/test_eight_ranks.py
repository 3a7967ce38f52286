# SPDX-License-Identifier: AGPL-3.0-or-later
"""A host with eight GPUs, in miniature: eight gloo processes that our launcher starts, each with its share of an epoch, its votes and the sums."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from yolov12.data.order import Plan
from yolov12.engine import launch
from yolov12.errors import RetryableError

RANKS, SAMPLES, BATCH = 8, 61, 20

EPOCH = """
import json, torch
from yolov12.errors import RetryableError
from yolov12.data.order import Plan
from yolov12.distributed import vote, world
from yolov12.distributed.reduce import Reducer

torch.set_num_threads(1)
here = world.from_environment()
group = world.join(here, torch.device("cpu"), 60, 120)
weight = torch.zeros(3)
reducer = Reducer([weight])
seen, sums = [], []
for step, share in enumerate(Plan({samples}, {batch}, rank=here.rank, ranks=here.size).shares(epoch=0)):
    verdict = vote.vote("out of memory" if (here.rank, step) == ({fails}, 1) else None, group)
    if not verdict.all_succeeded:
        raise RetryableError(f"at step {{step}}, {{verdict.first()}}")
    images = 0 if share.is_ghost else len(share)
    seen.append([] if share.is_ghost else list(share))
    gradient, counts = torch.full((3,), float(images)), torch.tensor([float(images)])
    reducer.sum([gradient], counts)
    sums.append([float(gradient[0]), float(counts)])
open(f"{{here.rank}}.json", "w").write(json.dumps([seen, sums]))
world.leave()
"""

pytestmark = pytest.mark.slow  # eight processes that import torch


@pytest.fixture
def epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    """Writes the program of all ranks, of which one fails; -1 for none."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)

    def write(fails: int) -> str:
        (tmp_path / "epoch.py").write_text(EPOCH.format(samples=SAMPLES, batch=BATCH, fails=fails))
        return str(tmp_path / "epoch.py")

    return write


def test_eight_ranks_see_each_sample_once_and_sum_the_whole_batch(epoch, tmp_path: Path) -> None:
    """Batches of 20, which do not divide by eight, and one sample in the last, of which seven ranks have none."""
    launch.start(epoch(-1), RANKS)
    answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(RANKS)]
    whole = [list(share) for share in Plan(SAMPLES, BATCH).shares(0)]
    of_all = [[sample for seen, _ in answers for sample in seen[step]] for step in range(len(whole))]
    assert of_all == whole
    assert [sums for _, sums in answers] == [[[20, 20], [20, 20], [20, 20], [1, 1]]] * RANKS
    sizes = [len(seen[0]) for seen, _ in answers]
    assert sizes == [3, 3, 3, 3, 2, 2, 2, 2]


def test_of_eight_the_one_that_fails_is_named(epoch) -> None:
    with pytest.raises(RetryableError, match=r"at step 1, rank 5: out of memory"):
        launch.start(epoch(5), RANKS)
