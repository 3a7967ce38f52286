# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a network asks of kernels, and how often: its layers are run on torch's meta device, whose tensors have shapes and no numbers.

Imports torch and ultralytics when called. Layers are ultralytics' own, so what our blocks make one of two convolutions of
(yolov12/model/blocks/joint.py) counts as two here, and no shortcut is summed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

HALF_BYTES = 2


class Convolution(NamedTuple):
    """Of one shape, square filters; `groups` is 1 or the number of channels."""

    images: int
    in_channels: int
    out_channels: int
    side: int
    stride: int
    height: int
    """Of the input."""
    width: int
    groups: int
    silu: bool

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def is_stem(self) -> bool:
        """Whether it reads pictures."""
        return self.in_channels == 3

    @property
    def out_height(self) -> int:
        """Padded by side // 2."""
        return (self.height - 1) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Padded by side // 2."""
        return (self.width - 1) // self.stride + 1

    @property
    def in_numbers(self) -> int:
        """Of x."""
        return self.images * self.in_channels * self.height * self.width

    @property
    def out_numbers(self) -> int:
        """Of y."""
        return self.images * self.out_channels * self.out_height * self.out_width

    @property
    def moved_bytes(self) -> int:
        """That must be read and written at least, in half precision."""
        filters = self.out_channels * self.in_channels // self.groups * self.side**2
        return HALF_BYTES * (self.in_numbers + filters + self.out_numbers)

    def words(self) -> str:
        """`64>64 3x3/1 80x80 silu`: channels, filter and stride, the map that is read."""
        kind = "depthwise " if self.is_depthwise else ""
        channels = f"{self.in_channels}" if self.is_depthwise else f"{self.in_channels}>{self.out_channels}"
        of = f"{self.side}x{self.side}/{self.stride} {self.height}x{self.width}"
        return f"{kind}{channels} {of}{' silu' if self.silu else ''}"


class Norm(NamedTuple):
    """A batch norm of training with what follows it."""

    images: int
    channels: int
    height: int
    width: int
    silu: bool

    @property
    def tensor_bytes(self) -> int:
        """Of its input in half precision."""
        return HALF_BYTES * self.images * self.channels * self.height * self.width

    def words(self) -> str:
        """`64 80x80 silu`."""
        return f"{self.channels} {self.height}x{self.width}{' silu' if self.silu else ''}"


class Joined(NamedTuple):
    """A concatenation along the channels."""

    images: int
    height: int
    """Of what is made."""
    width: int
    channels: tuple[int, ...]
    doubled: tuple[bool, ...]
    """Of each part, whether it is upsampled by 2 before."""

    @property
    def moved_bytes(self) -> int:
        """That must be read and written at least, in half precision."""
        of_part = (count // (4 if twice else 1) for count, twice in zip(self.channels, self.doubled, strict=True))
        return HALF_BYTES * self.images * self.height * self.width * (sum(of_part) + sum(self.channels))

    def words(self) -> str:
        """`256 up+128 40x40`."""
        parts = (f"{count}{' up' if twice else ''}" for count, twice in zip(self.channels, self.doubled, strict=True))
        return f"{'+'.join(parts)} {self.height}x{self.width}"


def convolutions(size: str, images: int, imgsz: int) -> Counter[Convolution]:
    """Every convolution of yolov12`size` in inference, batch norms folded into them, and how often it runs."""
    from torch import nn
    from ultralytics.nn.modules.block import DFL

    network = _network(size).fuse(verbose=False)
    activated = {
        part.conv: type(part.act) is nn.SiLU
        for part in network.modules()
        if hasattr(part, "conv") and hasattr(part, "act")
    }
    found: Counter[Convolution] = Counter()

    def see(conv: Any, taken: tuple[Any, ...], made: Any) -> None:
        del made
        (x,) = taken
        count, channels, height, width = x.shape
        side, stride = conv.kernel_size[0], conv.stride[0]
        silu = activated.get(conv, False)
        found[Convolution(count, channels, conv.out_channels, side, stride, height, width, conv.groups, silu)] += 1

    # The mean of a distribution is a convolution to ultralytics; for us it is a part of decoding.
    means = [part.conv for part in network.modules() if type(part) is DFL]
    wanted = (part for part in network.modules() if type(part) is nn.Conv2d and part not in means)
    with _hooked(wanted, see):
        _run(network, images, imgsz)
    return found


def norms(size: str, images: int, imgsz: int) -> Counter[Norm]:
    """Every batch norm of yolov12`size` in training, and how often it runs."""
    from torch import nn

    network = _network(size)
    activated = {
        part.bn: type(part.act) is nn.SiLU for part in network.modules() if hasattr(part, "bn") and hasattr(part, "act")
    }
    found: Counter[Norm] = Counter()

    def see(norm: Any, taken: tuple[Any, ...], made: Any) -> None:
        del made
        found[Norm(*taken[0].shape, silu=activated.get(norm, False))] += 1

    with _hooked((part for part in network.modules() if type(part) is nn.BatchNorm2d), see):
        _run(network, images, imgsz)
    return found


def joins(size: str, images: int, imgsz: int) -> Counter[Joined]:
    """Every concatenation of yolov12`size`, between its layers and inside its blocks, and how often it runs."""
    from torch import nn
    from ultralytics.nn.modules.block import C3, A2C2f, C2f
    from ultralytics.nn.modules.conv import Concat

    network = _network(size)
    found: Counter[Joined] = Counter()

    def of_block(block: Any, taken: tuple[Any, ...], made: Any) -> None:
        del taken
        hidden = block.c if isinstance(block, C2f) else block.cv1.conv.out_channels
        parts = 2 if isinstance(block, C3) else len(block.m) + (2 if isinstance(block, C2f) else 1)
        found[Joined(images, *made.shape[2:], (hidden,) * parts, (False,) * parts)] += 1

    def of_layer(layer: Any, taken: tuple[Any, ...], made: Any) -> None:
        sources = [network.model[layer.i + before if before < 0 else before] for before in layer.f]
        channels = tuple(part.shape[1] for part in taken[0])
        doubled = tuple(type(source) is nn.Upsample for source in sources)
        found[Joined(images, *made.shape[2:], channels, doubled)] += 1

    blocks = (part for part in network.modules() if isinstance(part, (C2f, C3, A2C2f)))
    layers = (part for part in network.modules() if isinstance(part, Concat))
    with _hooked(blocks, of_block), _hooked(layers, of_layer):
        _run(network, images, imgsz)
    return found


def _network(size: str) -> Any:
    """ultralytics' network of yolov12`size`, with 80 classes."""
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel(f"yolo12{size}.yaml", nc=80, verbose=False)


@contextmanager
def _hooked(modules: Iterator[Any], see: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(see) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(network: Any, images: int, imgsz: int) -> None:
    import torch

    # In training a head answers before it decodes, which needs numbers.
    network.to("meta").train()
    with torch.no_grad():
        network(torch.empty(images, 3, imgsz, imgsz, device="meta"))
