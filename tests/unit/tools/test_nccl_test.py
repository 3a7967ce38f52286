# SPDX-License-Identifier: AGPL-3.0-or-later
"""The verdict on the links between ranks, and which ranks are started. tests/dist measures with two of them."""

from __future__ import annotations

import pytest

from yolov12.distributed.launchers import Machines
from yolov12.errors import UserError
from yolov12.tools import nccl_test
from yolov12.verb_table import VERBS

SXM = "NVIDIA H100 80GB HBM3"
LARGE = 256 * 2**20
TWO_MACHINES = Machines(0, 2, "a", 1, "Slurm", "the test says so")


@pytest.mark.parametrize(
    ("links", "gpu", "gb_per_s", "words"),
    [
        ("NVLink", SXM, 350, "good: 350 GB/s at best; 370 to 480 GB/s are reported for H100 SXM"),
        ("NVLink", SXM, 200, "slow: 200 GB/s"),
        ("NVLink", SXM, 40, "far too slow: 40 GB/s"),
        (
            "NVLink",
            "NVIDIA H100 PCIe",
            190,
            "good: 190 GB/s at best; 200 to 230 GB/s are reported for H100 with NVLink bridges",
        ),
        ("NVLink", "NVIDIA H100 NVL", 190, "good"),
        ("PCIe", "NVIDIA H100 PCIe", 40, "good: 40 GB/s at best; 35 to 45"),
        ("NVLink", "NVIDIA A100-SXM4-80GB", 240, "good"),
        ("PCIe", "Tesla T4", 6, "there is no figure of others for Tesla T4"),
        ("network", SXM, 11, "between machines: compare it with the network's own speed"),
        ("cpu", "", 1, "this says nothing about GPUs"),
    ],
)
def test_the_verdict_is_in_words(links, gpu, gb_per_s, words):
    assert words in nccl_test.verdict(links, gpu, gb_per_s, LARGE, wrong=0)


def test_small_messages_are_not_judged():
    assert "type maxbytes=256M" in nccl_test.verdict("NVLink", SXM, 3, 2**20, wrong=0)


def test_a_wrong_sum_comes_before_any_speed():
    assert nccl_test.verdict("NVLink", SXM, 350, LARGE, wrong=3).startswith("3 elements were not the sum")


@pytest.mark.parametrize(
    ("wanted", "gpus", "machines", "count"),
    [(0, 8, None, 8), (2, 8, None, 2), (0, 1, None, 0), (0, 1, TWO_MACHINES, 1), (0, 0, None, 2), (0, 0, TWO_MACHINES, 1)],
)  # fmt: skip
def test_one_rank_is_started_for_each_gpu_and_none_that_has_nobody_to_talk_to(wanted, gpus, machines, count):
    assert nccl_test.how_many(wanted, gpus, machines)[0] == count


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(UserError, match="ngpus=9, and torch sees 8 here"):
        nccl_test.how_many(9, 8, None)


@pytest.mark.parametrize(
    "options",
    [
        {"minbytes": "8 MB"},
        {"minbytes": "1G", "maxbytes": "1M"},
        {"iters": 0},
        {"stepfactor": 1.5},
        {"warmup_iters": -1},
    ],
)
def test_a_wrong_option_is_one_sentence(options):
    with pytest.raises(UserError, match="nccl-test: "):
        nccl_test.as_arguments(options)


def test_the_options_reach_the_ranks():
    arguments = nccl_test.as_arguments({"maxbytes": "2M", "iters": 3})
    options = nccl_test.nccl_check.parse(["all_reduce_perf", *arguments])
    assert (options.minbytes, options.maxbytes, options.iters, options.warmup_iters) == (2**20, 2**21, 3, 5)


def test_help_shows_the_defaults_that_count():
    assert VERBS["nccl-test"].keys() == nccl_test.OPTIONS
