# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `device=auto` chooses among GPUs that the test makes up, what is said of them, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov12.distributed import devices
from yolov12.distributed.devices import Gpu, auto, beside, check_named, lines
from yolov12.errors import UserError

GIB = 2**30


def gpu(index: int, name: str = "A", total_gib: int = 80, used_gib: float = 0.5, **more) -> Gpu:
    return Gpu(index, name, int((total_gib - used_gib) * GIB), total_gib * GIB, **more)


def test_without_a_gpu_it_is_the_cpu_and_says_why() -> None:
    assert auto([]) == ("cpu", "no GPU is visible")


def test_without_a_driver_there_is_no_gpu_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "DRIVER", (tmp_path / "nvidiactl",))
    monkeypatch.setitem(__import__("sys").modules, "yolov12.distributed.gpus", None)  # importing it would raise
    assert devices.visible_gpus() == []


def test_all_gpus_of_one_kind_are_taken() -> None:
    assert auto([gpu(0), gpu(1), gpu(2)]) == ("0,1,2", "3 x A, at least 79.5 GiB free each")


def test_of_two_kinds_the_more_common_is_taken_and_the_rest_named() -> None:
    device, reason = auto([gpu(0, "big", 80), gpu(1, "small", 24), gpu(2, "small", 24)])
    assert device == "1,2"
    assert "leaving out 1 of another kind" in reason


def test_of_two_equally_common_kinds_the_larger_is_taken() -> None:
    assert auto([gpu(0, "small", 24), gpu(1, "big", 80)])[0] == "1"


@pytest.mark.parametrize("busy", [{"used_gib": 5}, {"busy_percent": 60}], ids=["memory is used", "something runs"])
def test_what_is_in_use_is_left_out(busy: dict) -> None:
    device, reason = auto([gpu(0), gpu(1, **busy), gpu(2, busy_percent=3)])
    assert device == "0,2"
    assert reason == "2 x A, at least 79.5 GiB free each, leaving out 1 in use"


def test_of_two_kinds_the_one_with_more_idle_gpus_counts() -> None:
    assert auto([gpu(0, "big", used_gib=9), gpu(1, "big", used_gib=9), gpu(2, "small")])[0] == "2"


def test_where_all_are_in_use_all_are_taken_and_it_is_said() -> None:
    device, reason = auto([gpu(0, total_gib=8, used_gib=2), gpu(1, total_gib=8, used_gib=2)])
    assert device == "0,1"
    assert "all of them in use by others" in reason


def test_a_launcher_that_started_two_ranks_gets_two_gpus() -> None:
    assert auto([gpu(0), gpu(1), gpu(2)], local_size=2)[0] == "0,1"
    assert auto([gpu(0), gpu(1)], local_size=1)[0] == "0"


def test_each_gpu_has_a_line_with_its_memory_links_and_place() -> None:
    gpus = [
        gpu(0, busy_percent=0, numa_node=0, nvlinks=frozenset({1, 2})),
        gpu(1, nvlinks=frozenset({0})),
        gpu(2, used_gib=40),
    ]
    assert list(lines(gpus, "0,1")) == [
        "GPU 0: A, 79.5 of 80.0 GiB free, 0 % busy, NVLink to all, NUMA node 0: taken",
        "GPU 1: A, 79.5 of 80.0 GiB free, NVLink to 0: taken",
        "GPU 2: A, 40.0 of 80.0 GiB free, PCIe: left out, in use",
    ]


def test_a_named_gpu_without_room_is_refused_and_an_idle_one_named() -> None:
    with pytest.raises(
        UserError, match=r"device=0,1: GPU 1 has 1\.0 of 80\.0 GiB free, another program .*; GPU 0, 2 is idle"
    ):
        check_named([0, 1], [gpu(0), gpu(1, used_gib=79), gpu(2)])


def test_named_gpus_of_several_kinds_are_refused_unless_they_may_mix() -> None:
    with pytest.raises(
        UserError, match=r"device=0,1: GPUs of several kinds \(big, small\), .*: name those of one kind, .*mixed_gpus=1"
    ):
        check_named([0, 1], [gpu(0, "big"), gpu(1, "small"), gpu(2, "big")])
    assert check_named([0, 2], [gpu(0, "big"), gpu(1, "small"), gpu(2, "big")]) == []


def test_a_named_gpu_in_use_and_several_kinds_are_warned_of() -> None:
    gpus = [gpu(0, "big", used_gib=30, busy_percent=97), gpu(1, "small", 24), gpu(2, "third")]
    said = check_named([0, 1], gpus, may_mix=True)
    assert said == [
        "device: GPU 0 is in use by another program (50.0 of 80.0 GiB free, 97 % busy)",
        "device: GPUs of several kinds (big, small): every update waits for the slowest",
    ]
    assert check_named([1], [gpu(0, used_gib=79), gpu(1)]) == []


def test_what_this_process_does_itself_on_a_gpu_is_not_taken_for_another_programs() -> None:
    gpus = [gpu(0, "big", used_gib=79, busy_percent=97), gpu(1, "small", 24)]
    assert check_named([0], gpus, is_ours=True) == []
    with pytest.raises(UserError, match="several kinds"):
        check_named([0, 1], gpus, is_ours=True)


def test_the_kernel_says_what_is_beside_a_gpu(tmp_path: Path) -> None:
    for address, node, cpus in (("0000:3b:00.0", "1", "16-31,48-63"), ("0000:86:00.0", "-1", "0-63")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "numa_node").write_text(f"{node}\n")
        (tmp_path / address / "local_cpulist").write_text(f"{cpus}\n")
    assert beside("0000:3B:00.0", tmp_path) == (1, "16-31,48-63")
    assert beside("0000:86:00.0", tmp_path) == (None, "0-63")
    assert beside("0000:ff:00.0", tmp_path) == (None, "")
