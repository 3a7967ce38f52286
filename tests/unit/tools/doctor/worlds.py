# SPDX-License-Identifier: AGPL-3.0-or-later
"""A machine on which everything is as it should be: an image, two H100 with NVLink. Tests break one thing of it."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path

from yolov12 import pins
from yolov12.tools import verify
from yolov12.tools.doctor.world import Cpus, Driver, Gpu, Limits, LoaderTrial, Speed, Trial, World
from yolov12.tools.gpu_code import GpuCode

GPUS = (
    Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), "0000:1b:00.0", "0-15"),
    Gpu(1, "NVIDIA H100 80GB HBM3", (9, 0), "0000:9b:00.0", "16-31"),
)
TRIAL = Trial("sdpa-flash", "close to the fastest measured kernel", "bf16", 2e-3, 4e-3, 1.0, 9.0)
VERSIONS = {"torch": pins.TORCH, "ultralytics": pins.ULTRALYTICS}


def installed(site: Path, promised: dict | None = None, **versions: str) -> verify.Here:
    """An environment with these packages; files of none are there, and each library has code for sm_90."""
    packages = {}
    for name, version in versions.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
        packages[name] = PathDistribution(info)
    code = GpuCode(frozenset({"80", "90"}), frozenset())
    return verify.Here(site, packages, promised, read_gpu_code=lambda path: code)


def healthy(folder: Path) -> World:
    """Nothing to complain of; `folder` is empty."""
    for name in ("runs", "cache", "data"):
        (folder / name).mkdir(mode=0o700)
    (folder / "font.ttf").touch()
    promised = {"python": "3.11", "packages": VERSIONS, "flash_attn": None, "yolov12_kernels": None, "archs": ["90"]}
    return World(
        environ={},
        is_image=True,
        deep=False,
        driver=Driver("580.65.06", (13, 0), True, 580, ((570, "12.8"),), 2),
        torch_failure="",
        torch_cuda="13.0",
        gpus=GPUS,
        gpu_failures={},
        installed=installed(folder / "site", promised, **VERSIONS),
        shm_free_bytes=16 * 2**30,
        limits=Limits(65536, 65536, None, None),
        has_infiniband=True,
        cpus=Cpus(frozenset(range(32)), 32),
        data=folder / "data",
        data_is_listed=False,
        runs=folder / "runs",
        runs_reason="/workspace is writable",
        workspace_owner=1000,
        user=1000,
        cache=folder / "cache",
        cache_reason="kept with your files",
        engines=folder / "cache/engines",
        font=folder / "font.ttf",
        logger_settings={"wandb": True},
        attention=lambda gpu: TRIAL,
        describe_cpu_attention=lambda: ("sdpa-cpu", "torch's fused kernel for CPUs"),
        slowdowns=lambda gpu: 0x1 | 0x4,  # idle, power limit
        all_reduce=lambda: "good: 365 GB/s at best; 370 to 480 GB/s are reported for H100 SXM",
        write_speed=lambda place: Speed(900, "wrote 64 MiB"),
        read_speed=lambda place: Speed(900, "read 500 pictures", pictures_per_s=9000),
        free_bytes=lambda place: 100 * 2**30,
        loader=lambda: LoaderTrial(4000, 8, "nvJPEG through torchvision"),
        runs_code_from_weights=lambda: False,
    )
