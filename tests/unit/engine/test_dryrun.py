# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `--dry-run` says would be started."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from yolov12 import arguments, values
from yolov12.data.order import Plan
from yolov12.distributed.devices import Gpu
from yolov12.distributed.launchers import Machines, World
from yolov12.engine import dryrun
from yolov12.engine.yolo import YOLOv12Mixin
from yolov12.errors import UserError

REPOSITORY = Path(__file__).parents[3]
GIB = 2**30
GPUS = [Gpu(index, "A", 79 * GIB, 80 * GIB, 0, index // 2, f"{index // 2}-{index // 2}") for index in range(4)]
TWO_MACHINES = Machines(1, 2, "first", 29500, "the environment", "NODE_RANK=1 of NNODES=2")


def said(place: World | Machines, gpus=(), **options) -> list[str]:
    return list(dryrun.lines(options, place, gpus))


def test_one_process_on_the_cpu():
    lines = said(World(), data="a.yaml", batch=16)
    assert lines[0] == "dry run: nothing is started"
    assert lines[1].endswith(" train data=a.yaml batch=16 device=cpu")
    assert "launcher: none" in lines
    assert "rank 0: the CPU, 16 images of each batch" in lines
    assert "accumulation: nbs=64: an update after every 4 batches, of 64 images" in lines


def test_the_command_can_be_typed_as_it_stands():
    command = said(World(), data="my set.yaml", plots=False, classes=[0], device="cpu")[1]
    assert command.endswith(" train 'data=my set.yaml' plots=False 'classes=[0]' device=cpu")
    values.check(arguments.parse(shlex.split(command)[3:], arguments.ultralytics_defaults()).options)


def test_each_rank_has_a_gpu_and_a_share():
    lines = said(World(), GPUS, data="a.yaml", batch=256, device="auto")
    assert [line for line in lines if line.startswith("rank ")][3].startswith("rank 3: GPU 3 (A), ")
    assert sum(line.endswith("64 images of each batch") for line in lines) == 4
    assert "world: 4 processes on this machine" in lines
    assert "accumulation: nbs=64: an update after every batch, of 256 images" in lines


def test_a_machine_of_several_names_its_own_ranks():
    lines = said(TWO_MACHINES, GPUS, batch=20)
    assert [line.split(":")[0] for line in lines if line.startswith("rank ")] == [
        "rank 4",
        "rank 5",
        "rank 6",
        "rank 7",
    ]


@pytest.mark.parametrize(
    ("batch", "line"),
    [
        (16, "batch: 16 over 8 processes, 2 on each"),
        (17, "batch: 17 over 8 processes, 3 on the first and 2 on the others"),
        (20, "batch: 20 over 8 processes, 3 on the first 4 and 2 on the others"),
    ],
)
def test_the_shares_are_those_that_the_loader_cuts(batch: int, line: str):
    lines = said(TWO_MACHINES, GPUS, batch=batch)
    assert line in lines
    shares = [len(next(Plan(100, batch, rank=rank, ranks=8).shares(0))) for rank in range(4, 8)]
    assert [int(words.split()[-5]) for words in lines if words.startswith("rank ")] == shares
    of_update = round(64 / batch) * batch
    assert f"accumulation: nbs=64: an update after every {round(64 / batch)} batches, of {of_update} images" in lines


def test_under_a_launcher_that_started_the_ranks_it_starts_none():
    lines = said(World(5, 8, 4, True, 1, 1, "first", 29500, "Slurm"), GPUS, batch=64)
    assert "launcher: Slurm has started this process as rank 5" in lines
    assert "world: 8 processes, 4 on this machine; the first is at first:29500" in lines


def test_a_batch_that_is_measured_is_said_to_be():
    assert any(line.startswith("batch: -1: measured when training starts") for line in said(World(), GPUS, batch=-1))


def test_a_batch_too_small_is_refused():
    with pytest.raises(UserError, match="batch=2 is over all processes, and there are 4"):
        said(World(), GPUS, batch=2, device="auto")


def test_what_the_run_would_refuse_is_refused():
    """Also more GPUs than the launcher wants processes for."""
    two = Machines(1, 2, "first", 29500, "Kubeflow", "PET_NODE_RANK=1 of PET_NNODES=2", local_size=2)
    with pytest.raises(UserError, match="device=0,1,2 names 3 GPUs, and Kubeflow asks for 2 processes"):
        said(two, GPUS, batch=64, device="0,1,2")


def test_the_environment_of_the_run_is_shown(monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("YOLOV12_AMP", "bf16")
    lines = said(World())
    assert "environment: NCCL_DEBUG=INFO" in lines
    assert "environment: YOLOV12_AMP=bf16 (environment)" in lines


def test_a_script_asks_for_it_with_an_argument(capsys):
    class Upstream:
        def train(self, **arguments):
            raise AssertionError(f"was started with {arguments}")

    made = object.__new__(
        type("YOLO", (YOLOv12Mixin, Upstream), {"overrides": {}, "model_name": "yolov12n.yaml", "model": None})
    )
    assert made.train(data="a.yaml", device="cpu", batch=8, dry_run=True) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith(" train model=yolov12n.yaml data=a.yaml device=cpu batch=8")


def test_the_verb_prints_it_without_torch_and_starts_nothing(tmp_path: Path):
    (tmp_path / "a.yaml").touch()
    program = (
        "import sys; from yolov12.cli import main; code = main(['train', 'data=a.yaml', 'device=cpu', '--dry-run']);"
        "print(code, 'torch' in sys.modules, 'ultralytics' in sys.modules)"
    )
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("dry run: nothing is started\n")
    assert done.stdout.endswith("0 False False\n")
    assert not (tmp_path / "runs").exists()
