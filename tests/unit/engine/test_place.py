# SPDX-License-Identifier: AGPL-3.0-or-later
"""The trainer's place: which GPU for which rank, how many ranks a machine starts, which batch is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from yolov12.distributed import gpus
from yolov12.distributed.launchers import Machines, World
from yolov12.engine import place
from yolov12.errors import UserError


def test_each_rank_takes_the_gpu_of_its_number():
    assert place.gpu_of_rank("4,6", World(5, 8, 2, True, local_rank=1)) == 6


def test_a_rank_that_sees_one_gpu_of_its_own_takes_that(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    assert place.gpu_of_rank("0", World(5, 8, 2, True, local_rank=1)) == 0


def test_fewer_gpus_than_ranks_are_refused(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match=r"device=0 names 1 GPU\(s\) for 2 ranks"):
        place.gpu_of_rank("0", World(1, 2, 2, True, local_rank=1))


def test_a_batch_that_leaves_a_rank_without_an_image_is_refused():
    with pytest.raises(UserError, match="batch=3 is over all processes, and there are 4: type batch=4 or more"):
        place.check_batch(3, 4)
    for batch in (-1, 0.7, 4, 16):
        place.check_batch(batch, 4)


@pytest.mark.parametrize("batch", ["16", "auto", [16]])
def test_a_batch_that_is_no_number_is_refused_in_ultralytics_words(batch, monkeypatch, tmp_path):
    from yolov12.engine.trainer import YOLOv12Trainer

    monkeypatch.setattr("yolov12.engine.trainer.world.from_environment", lambda: World(0, 4, 4, True))
    given = {"model": "yolov12n.yaml", "data": "a.yaml", "batch": batch, "device": "cpu", "project": str(tmp_path)}
    with pytest.raises(TypeError, match=r"'batch=.*' is of invalid type"):
        YOLOv12Trainer(overrides=given)


def test_a_run_with_too_small_a_batch_leaves_no_folder(monkeypatch, tmp_path):
    from yolov12.engine.trainer import YOLOv12Trainer

    monkeypatch.setattr("yolov12.engine.trainer.world.from_environment", lambda: World(0, 4, 4, True))
    given = {"model": "yolov12n.yaml", "data": "a.yaml", "batch": 2, "device": "cpu", "project": str(tmp_path)}
    with pytest.raises(UserError, match="batch=2 is over all processes, and there are 4"):
        YOLOv12Trainer(overrides=given)
    assert list(tmp_path.iterdir()) == []


def test_a_device_argument_that_contradicts_the_launcher_leaves_no_folder(monkeypatch, tmp_path):
    from yolov12.engine.trainer import YOLOv12Trainer

    wanted = Machines(0, 2, "a", 1, "Kubeflow", "the test says so", local_size=2)
    monkeypatch.setattr("yolov12.engine.trainer.launchers.of_machine", lambda: wanted)
    given = {"model": "yolov12n.yaml", "data": "a.yaml", "batch": 8, "device": "0", "project": str(tmp_path)}
    with pytest.raises(UserError, match="device=0 names 1 GPU, and Kubeflow asks for 2 processes"):
        YOLOv12Trainer(overrides=given)
    assert list(tmp_path.iterdir()) == []


def test_ranks_have_versions_settings_and_arguments_in_common_and_no_paths(monkeypatch):
    monkeypatch.setenv("YOLOV12_AMP", "bf16")
    facts = place.in_common({"batch": 8, "data": "/here/a.yaml"}, {"names": {0: "cell"}}, torch.device("cpu"))
    assert (facts["torch"], facts["batch"], facts["YOLOV12_AMP"]) == (torch.__version__, 8, "bf16")
    assert "cell" in str(facts["classes"])
    assert not {"data", "YOLOV12_CACHE_DIR"} & set(facts)


def test_a_rank_is_bound_next_to_its_gpu(monkeypatch):
    buses, beside = {0: 1, 5: 2}, {"0000:01:00.0": (0, "0"), "0000:02:00.0": (1, "1")}
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda i: SimpleNamespace(pci_domain_id=0, pci_bus_id=buses[i], pci_device_id=0),
    )
    monkeypatch.setattr(gpus, "beside", lambda address: beside[address])
    monkeypatch.setattr(place.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(place.os, "cpu_count", lambda: 2)
    bound = []
    monkeypatch.setattr(place.binding, "bind", bound.append)
    assert place.bind(5, "0,5", local_size=2) == "on cores 1, next to GPU 5"
    assert bound == [{1}]
    assert "not bound" in place.bind(0, "0,5", local_size=1)
    assert bound == [{1}]


@pytest.mark.parametrize(("node", "resume", "is_own"), [(0, False, False), (1, False, True), (1, True, False)])
def test_a_later_machine_starts_its_ranks_from_a_folder_of_its_own(node: int, resume: bool, is_own: bool):
    """The first machine's may lie on a file system that both share."""
    machines = Machines(node, 2, "first", 29500, "a test", "told")
    given = place.with_folder(machines, {"project": "runs", "resume": resume})
    assert ("save_dir" in given) == is_own
    assert given["project"] == "runs"
    if is_own:
        assert not list(Path(given["save_dir"]).iterdir())
        Path(given["save_dir"]).rmdir()


def test_on_one_machine_the_folder_is_ultralytics():
    assert place.with_folder(None, {"project": "runs"}) == {"project": "runs"}


def test_a_rank_that_sees_one_gpu_of_its_machine_does_not_know_what_the_others_are_next_to(monkeypatch):
    """Slurm's --gpus-per-task shows each process its own; the ranks of a machine must choose alike."""
    monkeypatch.setattr(gpus, "next_to", lambda index: (index, "0-7"))
    assert gpus.nodes_of([0, 1], 2) == [0, 1]
    assert gpus.nodes_of([0], 2) == [0, None]
    assert gpus.nodes_of([], 2) == []
