# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real detection model and hand-made batches, small enough for a step in a tenth of a second."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine.step import Step
from yolov12.model import attention

CLASSES = 3


def model(
    frozen_batch_norm: bool = True, seed: int = 0, config: str | dict[str, Any] = "yolo12n.yaml"
) -> DetectionModel:
    """A float64 detector with fixed weights, in training mode; with frozen batch norm a part's output does not depend on its neighbours."""
    torch.set_num_threads(1)
    # Upstream's own attention hands the CPU batch norm of torch 2.11 a gradient that it misreads for a batch of one image (patch.py).
    attention.install()
    torch.manual_seed(seed)
    made = DetectionModel(config, nc=CLASSES, verbose=False).double()
    made.args = get_cfg()
    made.train()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        made(
            batch([0] * 8, imgsz=128)["img"]
        )  # gives the running statistics real values: untouched ones let the signal die out
    for norm in norms:
        norm.momentum = momentum
        norm.train(not frozen_batch_norm)
    return made


def batch(boxes_per_image: list[int], imgsz: int = 64, seed: int = 1) -> dict[str, Any]:
    """Random images with the given numbers of boxes, as ultralytics' loaders hand them over."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(boxes_per_image)
    centres = torch.rand(total, 2, generator=generator) * 0.5 + 0.25
    sizes = torch.rand(total, 2, generator=generator) * 0.3 + 0.2
    return {
        "img": torch.rand(len(boxes_per_image), 3, imgsz, imgsz, generator=generator, dtype=torch.float64),
        "batch_idx": torch.cat([torch.full((n,), float(i)) for i, n in enumerate(boxes_per_image)]),
        "cls": torch.randint(0, CLASSES, (total, 1), generator=generator).float(),
        "bboxes": torch.cat([centres, sizes], 1),
        "im_file": [f"{i}.jpg" for i in range(len(boxes_per_image))],
    }


def step(of: nn.Module, vote_group: Any = None) -> Step:
    """A step without autocast and loss scaling."""
    return Step(of, forward_loss=of, autocast=nullcontext, scale_loss=lambda loss: loss, vote_group=vote_group)


def gradients(of: nn.Module) -> dict[str, Tensor]:
    """What an optimizer would see, by parameter name."""
    return {name: parameter.grad.clone() for name, parameter in of.named_parameters() if parameter.grad is not None}


def assert_equal_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    """Compare by relative L2 norm, naming the worst parameter. `rtol=0` asks for equal bits."""
    assert ours.keys() == expected.keys()

    def distance(name: str) -> float:
        return float((ours[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12))

    worst = max(expected, key=distance)
    assert distance(worst) <= rtol, f"{worst}: relative difference {distance(worst):.2e} > {rtol:.0e}"
