# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `device=auto` chooses among GPUs that the test makes up."""

from __future__ import annotations

from yolov12.distributed.devices import Gpu, auto

GIB = 2**30


def gpu(index: int, name: str = "A", total_gib: int = 80) -> Gpu:
    return Gpu(index, name, total_gib * GIB // 2, total_gib * GIB)


def test_without_a_gpu_it_is_the_cpu_and_says_why() -> None:
    assert auto([]) == ("cpu", "no GPU is visible")


def test_all_gpus_of_one_kind_are_taken() -> None:
    device, reason = auto([gpu(0), gpu(1), gpu(2)])
    assert device == "0,1,2"
    assert reason == "3 x A, at least 40.0 GiB free each"


def test_of_two_kinds_the_more_common_is_taken_and_the_rest_named() -> None:
    device, reason = auto([gpu(0, "big", 80), gpu(1, "small", 24), gpu(2, "small", 24)])
    assert device == "1,2"
    assert "leaving out 1 of another kind" in reason


def test_of_two_equally_common_kinds_the_larger_is_taken() -> None:
    assert auto([gpu(0, "small", 24), gpu(1, "big", 80)])[0] == "1"


def test_a_launcher_that_started_two_ranks_gets_two_gpus() -> None:
    assert auto([gpu(0), gpu(1), gpu(2)], local_size=2)[0] == "0,1"
