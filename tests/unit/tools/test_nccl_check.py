# SPDX-License-Identifier: AGPL-3.0-or-later
"""The check of the links between GPUs: what it takes, what it computes and how it prints that. tests/dist runs it."""

from __future__ import annotations

import argparse
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov12.errors import UserError
from yolov12.tools import nccl_check


@pytest.mark.parametrize(("text", "size"), [("8", 8), ("64K", 65536), ("128m", 128 * 2**20), ("2G", 2 * 2**30)])
def test_sizes_are_written_as_in_nccl_tests(text, size):
    assert nccl_check.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-8", "1.5M", "8 MB", "8MB", "M"])
def test_another_size_says_what_to_type(text):
    with pytest.raises(argparse.ArgumentTypeError, match="128M"):
        nccl_check.parse_size(text)


@given(st.integers(1, 2**20), st.integers(1, 2**30), st.integers(2, 10))
def test_messages_grow_to_the_largest_in_whole_elements(least, most, factor):
    sizes = list(nccl_check.message_sizes(least, most, factor))
    assert bool(sizes) == (least <= most)
    assert sizes == sorted(sizes)
    assert all(
        size % nccl_check.ELEMENT_BYTES == 0 and 0 < size <= max(most, nccl_check.ELEMENT_BYTES) for size in sizes
    )


def test_the_bus_bandwidth_of_two_ranks_is_the_algorithm_s_and_of_many_nearly_twice_that():
    assert nccl_check.all_reduce_gb_per_s(10**9, 1.0, 2) == (1.0, 1.0)
    assert nccl_check.all_reduce_gb_per_s(10**9, 0.5, 8) == (2.0, 2.0 * 2 * 7 / 8)


@given(st.integers(4, 2**33), st.floats(1e-6, 10), st.integers(2, 1000))
def test_the_bus_never_carries_less_than_the_algorithm_nor_twice_as_much(size, duration_s, ranks):
    algorithm, bus = nccl_check.all_reduce_gb_per_s(size, duration_s, ranks)
    assert algorithm <= bus < 2 * algorithm


def test_a_row_has_a_value_under_each_column():
    head = nccl_check.HEADER.splitlines()[0].lstrip("#").split()
    assert head == ["size", "count", "type", "redop", "root", "time", "algbw", "busbw", "#wrong"]
    row = nccl_check.all_reduce_row(size_bytes=2**20, duration_s=1e-3, ranks=8, wrong=0)
    assert row.split() == ["1048576", "262144", "float", "sum", "-1", "1000.00", "1.05", "1.84", "0"]
    assert len(row) == len(nccl_check.HEADER.splitlines()[0])


def test_a_matrix_has_a_row_and_a_column_for_each_rank():
    lines = nccl_check.matrix("title", [[None, 1.5], [20.25, None]]).splitlines()
    assert [line.split() for line in lines] == [["title"], ["D\\D", "0", "1"], ["0", "-", "1.50"], ["1", "20.25", "-"]]


def test_the_options_of_nccl_tests_are_understood():
    options = nccl_check.parse(["all_reduce_perf", "-b", "8", "-e", "1G", "-f", "4", "-g", "2", "-n", "7", "-w", "3"])
    assert (options.minbytes, options.maxbytes, options.stepfactor) == (8, 2**30, 4)
    assert (options.ngpus, options.iters, options.warmup_iters) == (2, 7, 3)


@pytest.mark.parametrize(
    "arguments", [["-t", "2"], ["-b", "1G"], ["-f", "1"], ["-n", "0"], ["-w", "-1"], ["-g", "-1"], ["-b", "much"]]
)
def test_an_option_that_means_nothing_here_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        nccl_check.parse(["all_reduce_perf", *arguments])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "gpus", "count"), [(0, 8, 8), (2, 8, 2), (0, 0, 2), (3, 0, 3), (0, 1, 0), (1, 8, 0)]
)
def test_one_rank_is_started_for_each_gpu_and_none_for_one_alone(wanted, gpus, count):
    assert nccl_check.how_many(wanted, gpus)[0] == count


def test_without_a_gpu_it_says_that_the_numbers_are_not_a_gpu_s():
    assert "gloo" in nccl_check.how_many(0, 0)[1]


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(UserError, match=r"-g 9.*sees 8 GPUs.*type -g 8"):
        nccl_check.how_many(9, 8)


def test_one_gpu_is_told_that_there_is_nothing_to_measure(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert nccl_check.main(["all_reduce_perf"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"# {nccl_check.OURS}"
    assert "nothing to measure" in second


def test_ranks_are_started_without_looking_up_the_host_s_name(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    nccl_check.main(["all_reduce_perf", "-g", "3"])
    (arguments,) = started
    assert {"--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=3"} <= set(arguments)
    assert arguments[-3:] == ["all_reduce_perf", "-g", "3"]


@pytest.mark.parametrize(("set_to", "handed_on"), [(None, "2"), ("3", "3")])
def test_torchrun_is_told_how_many_threads_and_so_prints_no_banner(monkeypatch, set_to, handed_on):
    for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if set_to:
        monkeypatch.setenv("OMP_NUM_THREADS", set_to)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    seen = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: seen.append(os.environ["OMP_NUM_THREADS"]))
    nccl_check.main(["all_reduce_perf", "-g", "4"])
    assert seen == [handed_on]


@pytest.mark.parametrize("rank", [None, "0"], ids=["before ranks are started", "in a rank"])
def test_a_wrong_setting_is_one_sentence_and_code_2(monkeypatch, capsys, rank):
    monkeypatch.setenv("YOLOV12_DIST_TIMEOUT_S", "soon")
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("ranks were started"))
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    assert nccl_check.main(["all_reduce_perf"]) == 2
    assert capsys.readouterr().err.startswith("error: YOLOV12_DIST_TIMEOUT_S=soon")
