# SPDX-License-Identifier: AGPL-3.0-or-later
"""GPUs as the driver describes them, and the links between two of them. Needs one NVIDIA GPU, some tests two; NVLink multicast may be off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov12.distributed import devices

REPOSITORY = Path(__file__).parents[2]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-m", "yolov12.cli", *words], env=environ, capture_output=True, text=True, timeout=280
    )


def test_the_driver_says_what_torch_says_of_each_gpu() -> None:
    gpus = devices.visible_gpus()
    assert [gpu.index for gpu in gpus] == list(range(torch.cuda.device_count()))
    for gpu in gpus:
        assert gpu.name == torch.cuda.get_device_name(gpu.index)
        free, total = torch.cuda.mem_get_info(gpu.index)
        assert abs(gpu.total_bytes - total) < 0.05 * total
        assert abs(gpu.free_bytes - free) < 0.05 * total + 2**30  # asking CUDA takes some memory itself


def test_asking_takes_no_memory_on_the_gpus() -> None:
    """A context would hold some hundred MiB on each for the rest of the launcher's life."""
    program = """
from yolov12.distributed.devices import visible_gpus
before, after = visible_gpus(), visible_gpus()
print(max(one.free_bytes - other.free_bytes for one, other in zip(before, after)))
"""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 2**20


def test_a_dry_run_gives_each_rank_a_gpu() -> None:
    done = run("train", "data=synth", f"batch={8 * torch.cuda.device_count()}", "device=auto", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "rank 0: GPU " in done.stdout


@two_gpus
def test_the_links_are_measured_and_judged() -> None:
    done = run("nccl-test", "minbytes=1M", "maxbytes=256M", "stepfactor=16")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("verdict: ")
    assert "GB/s at best" in verdict
