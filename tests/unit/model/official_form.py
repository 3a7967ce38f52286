# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints in the form of the authors' files, made here: the released files can not be part of a test.

The modules are written from what is known of the fork's layout (docs/weights.md), not copied. While a model is built and saved they stand in
ultralytics' modules under the fork's names, so that the pickle refers to `ultralytics.nn.modules.block.AAttn` as a real file does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import block
from ultralytics.nn.modules.conv import Conv

FORK = "8.3.63"
UPSTREAM_A2C2F, UPSTREAM_AATTN = block.A2C2f, block.AAttn
SCALES = {
    "n": [0.50, 0.25, 1024],
    "s": [0.50, 0.50, 1024],
    "m": [0.50, 1.00, 512],
    "l": [1.00, 1.00, 512],
    "x": [1.00, 1.50, 512],
}


class TurboAAttn(nn.Module):
    """Area attention with q and k in one convolution, v in another, and a 5x5 position encoding."""

    def __init__(self, dim: int, num_heads: int, area: int = 1) -> None:
        super().__init__()
        self.area = area
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qk = Conv(dim, 2 * dim, 1, act=False)
        self.v = Conv(dim, dim, 1, act=False)
        self.proj = Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 5, 1, 2, g=dim, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        v = self.v(x)
        q, k = self.qk(x).split(channels, dim=1)
        q, k, heads_v = (self._per_head(part) for part in (q, k, v))
        weights = (q.transpose(-1, -2) @ k * self.head_dim**-0.5).softmax(dim=-1)
        out = heads_v @ weights.transpose(-1, -2)  # (batch, area, heads, head_dim, tokens)
        out = out.permute(0, 2, 3, 1, 4).reshape(batch, channels, height, width)
        return self.proj(out + self.pe(v))

    def _per_head(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, area, heads, head_dim, tokens of the area)."""
        batch = x.shape[0]
        return x.reshape(batch, self.num_heads, self.head_dim, self.area, -1).permute(0, 3, 1, 2, 4)


class TurboA2C2f(UPSTREAM_A2C2F):
    """Upstream's block with the fork's MLP in sizes l and x, for which parse_model writes 1.2."""

    def __init__(self, c1, c2, n=1, a2=True, area=1, residual=False, mlp_ratio=2.0, *rest) -> None:
        super().__init__(c1, c2, n, a2, area, residual, 1.5 if mlp_ratio == 1.2 else mlp_ratio, *rest)


for form, name in ((TurboAAttn, "AAttn"), (TurboA2C2f, "A2C2f")):
    form.__module__, form.__qualname__, form.__name__ = block.__name__, name, name


@contextmanager
def fork_modules(turbo: bool = True) -> Iterator[None]:
    """The fork's classes in the place of upstream's."""
    if not turbo:
        yield
        return
    with (
        mock.patch.object(block, "AAttn", TurboAAttn),
        mock.patch.object(block, "A2C2f", TurboA2C2f),
        mock.patch.object(tasks, "A2C2f", TurboA2C2f),
    ):
        yield


def model_yaml(size: str, turbo: bool = True, head: str = "Detect", nc: int = 80) -> dict:
    """`model.yaml` as a checkpoint of the fork has it."""
    first, second = ([128, 3, 2, 1, 2], [256, 3, 2, 1, 4]) if turbo else ([128, 3, 2], [256, 3, 2])
    neck = [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 2, "A2C2f", [512, False, -1]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 2, "A2C2f", [256, False, -1]],
        [-1, 1, "Conv", [256, 3, 2]],
        [[-1, 11], 1, "Concat", [1]],
        [-1, 2, "A2C2f", [512, False, -1]],
        [-1, 1, "Conv", [512, 3, 2]],
        [[-1, 8], 1, "Concat", [1]],
        [-1, 2, "C3k2", [1024, True]],
    ]
    ends = {
        "Detect": [*neck, [[14, 17, 20], 1, "Detect", ["nc"]]],
        "Segment": [*neck, [[14, 17, 20], 1, "Segment", ["nc", 32, 256]]],
        "Classify": [[-1, 1, "Classify", ["nc"]]],
    }
    return {
        "nc": nc,
        "scales": SCALES,
        "scale": size,
        "ch": 3,
        "yaml_file": f"yolov12{size}.yaml",
        "backbone": [
            [-1, 1, "Conv", [64, 3, 2]],
            [-1, 1, "Conv", first],
            [-1, 2, "C3k2", [256, False, 0.25]],
            [-1, 1, "Conv", second],
            [-1, 2, "C3k2", [512, False, 0.25]],
            [-1, 1, "Conv", [512, 3, 2]],
            [-1, 4, "A2C2f", [512, True, 4]],
            [-1, 1, "Conv", [1024, 3, 2]],
            [-1, 4, "A2C2f", [1024, True, 1]],
        ],
        "head": ends[head],
    }


def build(size: str, turbo: bool = True, head: str = "Detect", nc: int = 80, seed: int = 0) -> nn.Module:
    """A model of the fork with random weights and statistics, in eval mode."""
    kind, task = {
        "Detect": (tasks.DetectionModel, "detect"),
        "Segment": (tasks.SegmentationModel, "segment"),
        "Classify": (tasks.ClassificationModel, "classify"),
    }[head]
    torch.manual_seed(seed)
    with fork_modules(turbo):
        model = kind(model_yaml(size, turbo, head, nc), ch=3, verbose=False)
    model.yaml.pop("channels")  # the name since 8.3.138; the fork has "ch"
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            _randomize(module)
        elif isinstance(module, UPSTREAM_A2C2F) and module.gamma is not None:
            nn.init.uniform_(module.gamma, 0.2, 0.8)
    model.names = {index: f"thing {index}" for index in range(nc)}
    model.task = task
    model.args = {"imgsz": 640, "data": "coco.yaml", "task": task}
    return model.eval()


def _randomize(norm: nn.BatchNorm2d) -> None:
    nn.init.uniform_(norm.weight, 0.8, 1.2)
    nn.init.normal_(norm.bias, std=0.1)
    nn.init.normal_(norm.running_mean, std=0.1)
    nn.init.uniform_(norm.running_var, 0.8, 1.2)
    norm.num_batches_tracked += 7


def checkpoint(model: nn.Module, version: str = FORK) -> dict:
    """What `strip_optimizer` of 8.3.63 leaves in a finished run's file."""
    return {
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {
            "task": model.task,
            "mode": "train",
            "data": "coco.yaml",
            "imgsz": 640,
            "epochs": 600,
            "batch": 256,
        },
        "train_metrics": {"metrics/mAP50-95(B)": np.float64(0.404), "fitness": np.float64(0.417)},
        "train_results": {"epoch": [1, 2], "time": [1.5, 3.0]},
        "date": "2025-03-18T00:00:00",
        "version": version,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }


def save(model: nn.Module, path: Path, turbo: bool = True, **changes: object) -> Path:
    """Write `model` as the fork would; from then on it lacks what a later version added, and can not run."""
    for module in model.modules():
        if isinstance(module, UPSTREAM_AATTN):
            del module.all_head_dim
    with fork_modules(turbo):
        torch.save({**checkpoint(model), **changes}, path)
    return path
