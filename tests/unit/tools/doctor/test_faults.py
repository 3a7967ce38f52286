# SPDX-License-Identifier: AGPL-3.0-or-later
"""Planted faults: each is found by its check, alone, with why and the command that mends it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.docs import blocks, shapes
from tests.unit.tools.doctor import worlds
from yolov12.export import cache as engine_cache
from yolov12.tools.doctor import gpu_checks, look
from yolov12.tools.doctor.nvml import LostGpuError
from yolov12.tools.doctor.report import examine
from yolov12.tools.doctor.result import Result
from yolov12.tools.doctor.world import Cpus, Driver, Gpu, Limits, LoaderTrial, Speed, World
from yolov12.tools.gpu_code import GpuCode

Break = Callable[[World], World]


def broken(**changes: Any) -> Break:
    return lambda world: replace(world, **changes)


def trial(**changes: Any) -> Break:
    return broken(attention=lambda gpu: replace(worlds.TRIAL, **changes))


def raising(error: Exception) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        raise error

    return call


def without_code(world: World) -> World:
    def read(path: Path) -> GpuCode:
        return GpuCode(frozenset({"80"} if "torch_cuda" in path.name else {"90"}), frozenset())

    return replace(world, installed=replace(world.installed, read_gpu_code=read))


def kernels_for_others(world: World) -> World:
    here = worlds.installed(world.cache.parent / "site", None, **worlds.VERSIONS, **{"yolov12-kernels": "1.0+sm90"})

    def read(path: Path) -> GpuCode:
        return GpuCode(frozenset({"90"} if "_kernels" in path.name else {"80", "90"}), frozenset())

    a100 = Gpu(0, "NVIDIA A100", (8, 0), "0000:1b:00.0")
    return replace(world, gpus=(a100, replace(a100, index=1)), installed=replace(here, read_gpu_code=read))


def another_torch(world: World) -> World:
    site = world.cache.parent / "site"
    return replace(
        world, installed=worlds.installed(site, world.installed.promised, **{**worlds.VERSIONS, "torch": "2.9.0"})
    )


def another_ultralytics_on_a_host(world: World) -> World:
    site = world.cache.parent / "site"
    return replace(world, installed=worlds.installed(site, None, **{**worlds.VERSIONS, "ultralytics": "8.3.0"}))


def changed_engine(world: World) -> World:
    world.engines.mkdir(mode=0o700)
    engine_cache.store(world.engines, {"model": "a"}, b"plan")
    next(world.engines.glob("*.plan")).write_bytes(b"evil")
    return world


def open_cache(mode: int) -> Break:
    def make(world: World) -> World:
        world.cache.chmod(mode)
        return world

    return make


def engines_below_a_file(world: World) -> World:
    (world.cache.parent / "file").touch()
    return replace(world, engines=world.cache.parent / "file/engines")


def open_engines_elsewhere(world: World) -> World:
    engines = world.cache.parent / "elsewhere"
    engines.mkdir()
    engines.chmod(0o770)
    return replace(world, engines=engines)


def runs_is_a_file(world: World) -> World:
    file = world.runs.parent / "file"
    file.touch()
    return replace(world, runs=file)


def wandb_installed(world: World) -> World:
    packages = {**world.installed.packages, "wandb": world.installed.packages["torch"]}
    promised = world.installed.promised
    return replace(world, installed=replace(world.installed, packages=packages, promised={**promised, "packages": {
        name: found.version for name, found in packages.items()}}))  # fmt: skip


FAULTS: dict[str, tuple[Break, str, str, str]] = {
    "driver too old for the image": (broken(driver=Driver("535.104.05", (12, 2), True, 580)), "driver", "fail", "update the driver"),
    "driver of the older line": (
        broken(driver=Driver("570.1", (12, 8), True, 580, ((570, "12.8"),))), "driver", "fail", "make build CUDA=12.8"),
    "driver too old for torch": (broken(driver=Driver("535.1", (12, 2), True)), "driver", "fail", "update the driver"),
    "no --gpus": (broken(driver=Driver("580.65.06"), gpus=()), "driver", "warn", "docker run --gpus all"),
    "a driver that nothing is known of": (broken(driver=Driver()), "driver", "warn", "nvidia-smi"),
    "torch sees one of two GPUs": (broken(gpus=worlds.GPUS[:1]), "torch", "warn", "nvidia-smi"),
    "one of the GPUs asked for is not there": (
        broken(gpus=worlds.GPUS[:1], environ={"CUDA_VISIBLE_DEVICES": "0,7"}), "torch", "warn", "unset CUDA_VISIBLE_DEVICES"),
    "torch does not load": (broken(torch_failure="libcudart.so.13: no such file", gpus=()), "torch", "fail", "make build"),
    "a GPU is dead": (broken(gpus=worlds.GPUS[:1], gpu_failures={1: "CUDA error: unknown error"}), "torch", "fail", "dmesg"),
    "the only GPU is dead": (broken(gpus=(), gpu_failures={0: "CUDA error: unknown error"}), "torch", "fail", "dmesg"),
    "torch without CUDA": (broken(torch_cuda=None, gpus=()), "torch", "fail", "make build"),
    "GPUs hidden": (broken(environ={"CUDA_VISIBLE_DEVICES": "7"}, gpus=()), "torch", "warn", "unset CUDA_VISIBLE_DEVICES"),
    "CUDA does not start": (broken(gpus=()), "torch", "fail", "nvidia-smi"),
    "torch has no code for the GPU": (without_code, "gpu code", "fail", "make build"),
    "our kernels have none": (kernels_for_others, "gpu code", "warn", 'make build ARCHS="80"'),
    "a GPU that nothing has code for": (broken(gpus=(Gpu(0, "V100", (7, 0), ""), Gpu(1, "V100", (7, 0), ""))), "gpu code", "fail", "device=cpu"),
    "the GPU is full": (broken(attention=raising(MemoryError("CUDA out of memory"))), "attention", "warn", "nvidia-smi"),
    "attention is wrong": (trial(difference=0.5), "attention", "fail", "YOLOV12_FLASH_ATTN=0"),
    "attention is no number": (trial(difference=float("nan")), "attention", "fail", "YOLOV12_FLASH_ATTN=0"),
    "attention is slow": (trial(duration_ms=12.0), "attention", "warn", "YOLOV12_FLASH_ATTN=0"),
    "no fused attention": (trial(backend="plain"), "attention", "warn", "yolov12 verify"),
    "attention does not run": (
        broken(attention=raising(RuntimeError("no kernel image is available"))), "attention", "fail", "YOLOV12_FLASH_ATTN=0"),
    "a GPU fell off the bus": (broken(slowdowns=raising(LostGpuError("GPU is lost"))), "clocks", "fail", "dmesg"),
    "hot": (broken(slowdowns=lambda gpu: 0x40), "clocks", "warn", "nvidia-smi -q -d TEMPERATURE"),
    "set lower, and hot": (broken(slowdowns=lambda gpu: 0x2 | 0x40), "clocks", "warn", "--reset-gpu-clocks"),
    "power brake, and hot": (broken(slowdowns=lambda gpu: 0x80 | 0x40), "clocks", "warn", "nvidia-smi -q -d POWER"),
    "clocks set lower": (broken(slowdowns=lambda gpu: 0x2), "clocks", "warn", "--reset-gpu-clocks"),
    "slow links": (broken(all_reduce=lambda: "slow: 200 GB/s at best"), "all-reduce", "warn", "nvidia-smi topo -m"),
    "links over the host": (broken(all_reduce=lambda: "far too slow: 9 GB/s at best"), "all-reduce", "fail", "nccl-test"),
    "wrong sums": (broken(all_reduce=lambda: "3 elements were not the sum over the ranks"), "all-reduce", "fail", "nccl-test"),
    "ranks do not meet": (broken(all_reduce=raising(OSError("no answer in 180 s"))), "all-reduce", "fail", "NCCL_DEBUG=INFO"),
    "shared memory of a container": (broken(shm_free_bytes=64 * 2**20), "shm", "warn", "docker run --shm-size="),
    "few open files": (broken(limits=Limits(1024, 1024, None, None)), "limits", "warn", "--ulimit nofile="),
    "few open files, which it may raise": (broken(limits=Limits(1024, 2**20, None, None)), "limits", "warn", "ulimit -n 65536"),
    "few processes": (broken(limits=Limits(65536, 65536, None, 100)), "limits", "warn", "--pids-limit=-1"),
    "few processes of the user": (
        broken(limits=Limits(65536, 65536, None, None, user_processes=100)), "limits", "warn", "--ulimit nproc="),
    "memory not locked": (broken(limits=Limits(65536, 65536, 2**16, None)), "limits", "warn", "--ulimit memlock=-1"),
    "part of the cores' time": (broken(cpus=Cpus(frozenset(range(32)), 32, 4.0)), "cpus", "warn", "--cpuset-cpus=0-3"),
    "few cores": (broken(cpus=Cpus(frozenset({0, 16}), 32)), "cpus", "warn", "data_pipeline=gpu"),
    "far from its GPU": (broken(cpus=Cpus(frozenset(range(16)), 32)), "cpus", "warn", "--cpuset-cpus=16-31"),
    "runs can not be written": (runs_is_a_file, "workspace", "fail", 'docker run -v "$PWD":/workspace'),
    "outputs belong to root": (broken(user=0), "workspace", "warn", "docker run --user 1000"),
    "full disk": (broken(free_bytes=lambda place: 2**20), "disk", "fail", "project=FOLDER"),
    "nearly full disk": (broken(free_bytes=lambda place: 2**31), "disk", "warn", "project=FOLDER"),
    "a quota": (broken(write_speed=raising(OSError(122, "Disk quota exceeded"))), "disk", "fail", "make room"),
    "slow disk": (broken(write_speed=lambda place: Speed(5, "wrote")), "disk", "warn", "project=FOLDER"),
    "slow data": (broken(read_speed=lambda place: Speed(5, "read", pictures_per_s=50)), "disk", "warn", "cache=ram"),
    "a data set without pictures": (broken(read_speed=lambda place: None), "disk", "fail", "yolov12 data check"),
    "loader processes die": (
        broken(loader=lambda: LoaderTrial(1000, 8, "OpenCV", "worker is killed by signal: Bus error")), "loader", "fail", "workers=0"),
    "loader processes died once": (
        broken(loader=lambda: LoaderTrial(1000, 8, "OpenCV", "", "timed out")), "loader", "warn", "yolov12 doctor"),
    "another torch in the image": (another_torch, "versions", "fail", "yolov12 verify"),
    "another ultralytics on a host": (another_ultralytics_on_a_host, "versions", "fail", "make setup"),
    "an engine was changed": (changed_engine, "cache", "warn", "yolov12 cache verify"),
    "anyone writes the cache": (open_cache(0o702), "cache", "warn", "chmod go-w"),
    "a group writes the cache": (open_cache(0o720), "cache", "warn", "chmod go-w"),
    "engines can not be written": (engines_below_a_file, "cache", "fail", "unset YOLOV12_TRT_CACHE_DIR"),
    "a group writes the engines": (open_engines_elsewhere, "cache", "warn", "elsewhere"),
    "the cache goes with the container": (broken(cache_reason="temporary: /workspace: read-only"), "cache", "warn", "YOLOV12_CACHE_DIR=FOLDER"),
    "ultralytics phones home": (broken(environ={"YOLO_OFFLINE": "false"}), "offline", "warn", "unset YOLO_OFFLINE"),
    "a logger sends runs": (wandb_installed, "offline", "warn", "yolo settings wandb=False"),
    "offline without weights": (broken(environ={"YOLOV12_OFFLINE": "1"}), "offline", "warn", "cp yolo12n.pt"),
    "no font": (broken(font=Path("/nowhere.ttf")), "offline", "warn", "matplotlib"),
    "weights may run code": (broken(environ={"YOLOV12_TRUST_WEIGHTS": "1"}), "weights", "warn", "unset YOLOV12_TRUST_WEIGHTS"),
    "weights did run code": (broken(runs_code_from_weights=lambda: True), "weights", "fail", "make build"),
    "a misspelt setting": (broken(environ={"YOLOV12_OFLINE": "1"}), "settings", "fail", "unset YOLOV12_OFLINE"),
}  # fmt: skip
"""What is broken -> how, which check finds it, how bad it is, and what is in its command."""


DRIVER_OF_ONE = Driver("580.65.06", (13, 0), True, gpus=1)


def bad(world: World) -> list[Result]:
    return [result for result in examine(world) if result.status in ("warn", "fail")]


def test_a_healthy_machine_has_nothing_to_mend(tmp_path):
    assert bad(worlds.healthy(tmp_path)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_what_to_type(tmp_path, fault):
    breaks, name, status, command = FAULTS[fault]
    found = bad(breaks(worlds.healthy(tmp_path)))
    assert {(result.name, result.status) for result in found} == {(name, status)}
    assert command in found[0].to_type
    assert found[0].why


SYSTEM = "chmod cp df grep nvidia-smi pip sudo ulimit unset yolo".split()
"""Commands that are not ours."""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_to_type_can_be_typed(tmp_path, fault):
    for result in bad(FAULTS[fault][0](worlds.healthy(tmp_path))):
        for command in re.split(r"[;|]", result.to_type.partition("#")[0]):
            words = command.split()
            while words and re.fullmatch(r"NCCL_\w+=.*", words[0]):
                words = words[1:]
            if words and re.fullmatch(r"[a-z_]+=.*", words[0]):  # an argument of train
                words = ["yolov12", "train", *words]
            if words and words[0] not in SYSTEM:
                assert shapes.mistake(blocks.split(" ".join(words))) == "", result.to_type


@pytest.mark.parametrize(
    ("changes", "value"),
    [({"environ": {"CUDA_VISIBLE_DEVICES": "1"}}, "sees 1 of the driver's 2 GPUs"), ({"driver": DRIVER_OF_ONE}, None)],
)
def test_a_gpu_that_nobody_asked_for_is_no_fault(tmp_path, changes, value):
    world = replace(worlds.healthy(tmp_path), gpus=worlds.GPUS[:1], **changes)
    assert bad(world) == []
    said = [result.value for result in gpu_checks.torch_sees(world) if not result.subject]
    assert said == ([value] if value else [])


@pytest.mark.parametrize("probe", ["write_speed", "read_speed"])
def test_a_disk_is_not_judged_by_too_little(tmp_path, probe):
    tiny = Speed(0.1, "moved 2 MiB", is_enough=False, pictures_per_s=1)
    world = broken(**{probe: lambda place: tiny})(worlds.healthy(tmp_path))
    assert bad(world) == []
    said = [f"{result.value} {result.why}" for result in examine(world) if result.name == "disk"]
    assert any("moved 2 MiB: too little to judge" in words for words in said)


def test_the_room_on_the_disk_of_the_data_is_told_beside_its_speed(tmp_path):
    world = broken(free_bytes=lambda place: (3 if place.name == "data" else 100) * 2**30)(worlds.healthy(tmp_path))
    runs, data = (result.value for result in examine(world) if result.name == "disk")
    assert runs.startswith("100.0 GiB free")
    assert data == "3.0 GiB free, 900 MB/s (read 500 pictures)"


def test_every_check_that_can_fail_has_a_planted_fault(tmp_path):
    names = {result.name for result in examine(worlds.healthy(tmp_path))}
    assert names == {name for _, name, _, _ in FAULTS.values()}


def test_the_page_lists_twelve_of_them_as_they_are():
    page = (Path(__file__).parents[4] / "docs/doctor.md").read_text(encoding="utf-8").partition("## Planted faults")[2]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (warn|FAIL) \| `(.+?)` \|$", page, re.MULTILINE)
    assert len(rows) == 12
    assert rows == [
        (fault, FAULTS[fault][1], FAULTS[fault][2].replace("fail", "FAIL"), FAULTS[fault][3]) for fault, *_ in rows
    ]


def test_pictures_that_files_list_may_lie_elsewhere(tmp_path):
    assert bad(broken(read_speed=lambda place: None, data_is_listed=True)(worlds.healthy(tmp_path))) == []


@pytest.mark.parametrize("where", ["images", "elsewhere", "nowhere"])
def test_a_data_set_is_looked_at_where_its_pictures_lie(where, tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (tmp_path / "disk" / split).mkdir(parents=True)
    file = root / "data.yaml"
    folder = tmp_path / "disk" if where == "elsewhere" else root / "images"
    file.write_text(f"names: [a]\npath: {root}\ntrain: {folder}/train\nval: {folder}/val\n")
    if where != "nowhere":
        (folder / "train" / "0.jpg").write_bytes(b"a picture")
    found, is_listed = look._data(str(file))
    assert found == (folder / "train" if where == "elsewhere" else root)
    assert not is_listed
