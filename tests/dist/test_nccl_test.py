# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 nccl-test` on two gloo ranks of the CPU: that it measures and says what that means, not what it measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.dist.ranks import run
from yolov12.distributed import world
from yolov12.tools import nccl_check, nccl_test

REPOSITORY = Path(__file__).parents[2]
TINY = {"minbytes": "8", "maxbytes": "1K", "stepfactor": 16, "iters": 2, "warmup_iters": 1}


def _reported(rank: int) -> tuple[list[str], int]:
    del rank
    ranks = nccl_check.Ranks(world.from_environment(), torch.device("cpu"), timeout_s=60)
    options = nccl_check.parse(["all_reduce_perf", *nccl_test.as_arguments(TINY)])
    return nccl_test.report(ranks, options, nccl_test._links_of_all(ranks))


def test_two_ranks_measure_and_judge():
    (lines, wrong), of_the_other = run(_reported, 2)
    assert (lines, wrong) == of_the_other
    assert wrong == 0
    assert lines[-1].endswith("over gloo; this says nothing about GPUs")
    assert any(line.startswith("Latency Matrix") for part in lines for line in part.splitlines())


@pytest.mark.slow  # three processes that import torch
def test_the_verb_starts_its_ranks():
    words = [f"{key}={value}" for key, value in TINY.items()]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "yolov12.cli", "nccl-test", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("verdict: the ranks reach each other")
    assert "torch sees no GPU: 2 ranks on the CPU over gloo" in done.stderr
