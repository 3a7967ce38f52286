# SPDX-License-Identifier: AGPL-3.0-or-later
"""What would fit into the memory that there is: the largest batch, and for a single image that does not fit, what to train instead.

All of it is found by following the model on shapes alone; nothing is tried on the device.
"""

from __future__ import annotations

import bisect
import copy
import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine.on_shapes import trace
from yolov12.engine.profile import anchors_of, profile
from yolov12.memory.budget import Memory
from yolov12.memory.plan import choose, peaks
from yolov12.model.fused.trace import Trace

STATE_PER_PARAMETER_BYTES = 16
"""What comes after the batch is chosen: a gradient put aside, two numbers of the optimizer and the EMA, 4 bytes each. The gradients of the
step itself are in its profile."""
TRACED_IMAGES = 2
"""For fewer, batch norm would refuse outputs of one pixel."""
SMALLEST_IMGSZ = 64

Size = tuple[int, int]


def bytes_to_come(model: nn.Module) -> int:
    """What training will hold beside the weights, at most."""
    return STATE_PER_PARAMETER_BYTES * sum(parameter.numel() for parameter in model.parameters())


def largest_batch(
    model: nn.Module,
    size: Size,
    dtype: torch.dtype,
    fixed_bytes: int,
    budget_bytes: int,
    most_images: int,
    most_boxes: int = 0,
    left_alone: Collection[str] = (),
    keeps_inputs: bool = False,
    loss_by_kernels: bool = False,
) -> int:
    """The most images whose step fits with no convolution computed again; 0 if not one does.

    Args:
        size: of an image, (height, width).
        fixed_bytes: in use whatever the batch.
        budget_bytes: for all of it.
        most_images: no more are looked for.
        most_boxes: of one image.
        left_alone: names of modules that planning leaves alone.
        keeps_inputs: the model runs upstream's modules, which keep three tensors for each convolution; else its inputs are rebuilt.
        loss_by_kernels: as `profile` has it.
    """
    found = trace(model, (TRACED_IMAGES, channels_of(model), *size), dtype)
    anchors = anchors_of(model, size)

    def is_too_large(images: int) -> bool:
        of_images = found.of_images(images)
        assigned = images * anchors, most_boxes
        known = profile(of_images, fixed_bytes, left_alone, assigned=assigned, loss_by_kernels=loss_by_kernels)
        if keeps_inputs:
            needed = int(peaks(known, ()).max()) + sum(call.output_bytes for call in of_images.convolutions)
        else:
            inputs = {i for i, block in enumerate(known.blocks) if block.is_input and block.may_drop}
            needed = int(peaks(known, inputs).max())
        in_float32 = 4 * images * channels_of(model) * math.prod(size)  # the batch itself
        return needed + in_float32 > budget_bytes

    return bisect.bisect_left(range(1, most_images + 1), True, key=is_too_large)


def least_bytes_of_one(
    found: Trace,
    fixed_bytes: int,
    budget_bytes: int,
    left_alone: Collection[str] = (),
    loss_by_kernels: bool = False,
) -> int | None:
    """None if one image fits into the budget under some plan; else what it would need."""
    known = profile(found.of_images(1), fixed_bytes, left_alone, loss_by_kernels=loss_by_kernels)
    plan = choose(known, budget_bytes)
    return None if plan.fits else plan.peak_bytes


def why_not_one(
    model: nn.Module,
    found: Trace,
    size: Size,
    dtype: torch.dtype,
    memory: Memory,
    left_alone: Collection[str] = (),
    loss_by_kernels: bool = False,
) -> str | None:
    """Why not even one image can be trained on, in one sentence with what would fit; None if it can.

    Without a safety margin, so that only what clearly does not fit is refused.

    Args:
        found: the model on any number of images of `size`, (height, width).
        memory: of the device, all of training but the steps in use.
        left_alone, loss_by_kernels: as `profile` has them.
    """
    limit = memory.budget(0.0)
    needed = least_bytes_of_one(found, memory.allocated, limit, left_alone, loss_by_kernels)
    if needed is None:
        return None
    would_fit = advice(model, size, dtype, memory.allocated, limit, left_alone, loss_by_kernels)
    instead = f"{' or '.join(would_fit)} would fit" if would_fit else "free memory on the device or use a larger one"
    return (
        f"not even one image of {size[0]}x{size[1]} fits into the device's memory: with everything computed again a step needs "
        f"{needed / 2**30:.2f} GiB, and {limit / 2**30:.2f} GiB are there for it; {instead}"
    )


def advice(
    model: nn.Module,
    size: Size,
    dtype: torch.dtype,
    fixed_bytes: int,
    budget_bytes: int,
    left_alone: Collection[str] = (),
    loss_by_kernels: bool = False,
) -> list[str]:
    """What to type so that one image fits: a smaller imgsz, a smaller model of the family; nothing if neither would do, or is known to."""

    def fits(other: nn.Module, size: Size, fixed_bytes: int) -> bool:
        try:
            found = trace(other, (TRACED_IMAGES, channels_of(other), *size), dtype)
        except Exception:  # noqa: BLE001  # a layer of the user's that does not run on that size: it is not advised
            return False
        return least_bytes_of_one(found, fixed_bytes, budget_bytes, left_alone, loss_by_kernels) is None

    said, stride = [], stride_of(model)
    imgsz = largest_size(lambda imgsz: fits(model, (imgsz, imgsz), fixed_bytes), max(size) - stride, stride)
    if imgsz:
        said.append(f"imgsz={imgsz}")
    for name, smaller in smaller_models(model):
        share = _parameters(smaller) / max(_parameters(model), 1)
        if fits(smaller, size, int(share * fixed_bytes)):
            said.append(f"model={name}")
            break
    return said


def largest_size(fits: Callable[[int], bool], most: int, stride: int) -> int:
    """The largest multiple of `stride` up to `most` that fits, 0 if none from SMALLEST_IMGSZ on does."""
    sizes = range(math.ceil(SMALLEST_IMGSZ / stride) * stride, most + 1, stride)
    found = bisect.bisect_left(sizes, True, key=lambda size: not fits(size))
    return sizes[found - 1] if found else 0


def smaller_models(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, model) of the smaller ones of its family, the largest first. None for a model whose YAML has no scales."""
    yaml: dict[str, Any] = getattr(model, "yaml", None) or {}
    scales, own = list(yaml.get("scales") or ()), yaml.get("scale")
    if own not in scales:
        return
    for scale in reversed(scales[: scales.index(own)]):
        name = re.sub(r"(\d+)[a-z](?=\.yaml$)", rf"\g<1>{scale}", str(yaml.get("yaml_file", "")).rsplit("/", 1)[-1])
        yield name, DetectionModel(copy.deepcopy(yaml) | {"scale": scale}, verbose=False).train()


def stride_of(model: nn.Module) -> int:
    """Of its coarsest level, in pixels; never less than upstream's 32 (ultralytics engine/trainer.py:357)."""
    strides = getattr(model, "stride", None)
    return 32 if strides is None else max(int(max(strides)), 32)


def channels_of(model: nn.Module) -> int:
    """Of its images."""
    return int((getattr(model, "yaml", None) or {}).get("channels", 3))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
