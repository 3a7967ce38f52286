# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kernels of predictions in float16: what each does on the shapes of a network, and whole networks with and without them.

Functions that make the contests of a row. They import torch when called, and touch nothing but the device that they are given: on the CPU
they run with anything in the place of our ops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from benchmarks.kernels import shapes
from benchmarks.kernels.contest import OTHER, OURS, Call, Contest
from benchmarks.kernels.shapes import HALF_BYTES, Convolution

TILES = ("32x32", "64x32", "64x64", "128x16", "128x32", "128x64", "128x128")
"""Pixels and channels of those that docker/kernels/fused_conv.h has, in its order."""
EARLY = "early"
"""The chosen way, which begins while the kernel before it ends (one_kernel.BEGINS_EARLY)."""
TWO_KERNELS = "two kernels"
HEAD = 32
"""Numbers of a head of attention, in every YOLOv12."""
NANO_HEADS = 2
TOKENS_SIDE_PX = {100: 320, 400: 640, 1600: 1280}
"""Of each sequence, and the side of the pictures in which yolov12's area attention has as many."""
MOST_SEQUENCES = 256
LEVELS = (8, 16, 32)
"""Pixels of a picture to one of a map, for each level of a head."""
CLASSES, BINS = 80, 16


class Place(NamedTuple):
    """Where contests run."""

    device: Any
    ops: Any
    """torch.ops.yolov12_kernels, or what stands in for it."""
    imgsz: int


def fused_conv(place: Place, size: str, images: int) -> list[Contest]:
    """cuDNN and our pass for bias and SiLU, against each tile; the choice is `tile_for`'s."""
    found = shapes.convolutions(size, images, place.imgsz)
    return [
        _fused_conv(place, shape, times) for shape, times in found.items() if not (shape.is_depthwise or shape.is_stem)
    ]


def _fused_conv(place: Place, shape: Convolution, times: int) -> Contest:
    example = _convolved(place, shape)
    tile = int(place.ops.fused_conv_tile(example.x, example.weight, shape.stride))
    return Contest(
        shape.words(),
        shape.moved_bytes,
        partial(_conv_ways, place, shape, tile),
        times,
        chosen=TILES[tile],
        choices=TILES,
    )


def _conv_ways(place: Place, shape: Convolution, tile: int, sets: int) -> Mapping[str, Sequence[Call]]:
    buffers = [_convolved(place, shape) for _ in range(sets)]

    def by_tile(one: _Convolved, index: int, early: bool) -> Any:
        place.ops.fused_conv(one.x, one.weight, one.bias, shape.stride, shape.silu, None, one.y, index, early)
        return one.y

    ways = {OTHER: [partial(_by_torch, place, shape, one) for one in buffers]}
    ways |= {name: [partial(by_tile, one, index, False) for one in buffers] for index, name in enumerate(TILES)}
    return ways | {EARLY: [partial(by_tile, one, tile, True) for one in buffers]}


def fused_depthwise(place: Place, size: str, images: int) -> list[Contest]:
    """cuDNN's convolution and SiLU, and our kernel of training with our pass for bias and SiLU, against one kernel."""
    found = shapes.convolutions(size, images, place.imgsz)
    return [
        Contest(shape.words(), shape.moved_bytes, partial(_depthwise_ways, place, shape), times)
        for shape, times in found.items()
        if shape.is_depthwise
    ]


def _depthwise_ways(place: Place, shape: Convolution, sets: int) -> Mapping[str, Sequence[Call]]:
    from torch.nn import functional as F

    buffers = [_convolved(place, shape) for _ in range(sets)]
    taps = [one.weight[:, 0].permute(1, 2, 0).contiguous() for one in buffers]

    def by_torch(one: _Convolved) -> Any:
        y = F.conv2d(one.x, one.weight, one.bias, 1, shape.side // 2, 1, shape.groups)
        return F.silu(y, inplace=True) if shape.silu else y

    def by_two(one: _Convolved) -> Any:
        y = place.ops.depthwise(one.x, one.weight, False)
        place.ops.batch_norm_apply(y, one.constants, shape.silu, one.y, False)
        return one.y

    def by_one(one: _Convolved, of_taps: Any, early: bool) -> Any:
        place.ops.fused_depthwise(one.x, of_taps, one.bias, shape.silu, None, one.y, early)
        return one.y

    pairs = list(zip(buffers, taps, strict=True))
    return {
        OTHER: [partial(by_torch, one) for one in buffers],
        TWO_KERNELS: [partial(by_two, one) for one in buffers],
        OURS: [partial(by_one, *pair, False) for pair in pairs],
        EARLY: [partial(by_one, *pair, True) for pair in pairs],
    }


def attend(place: Place, tokens: int) -> dict[int, Contest]:
    """Attention of sequences of so many tokens, two heads each as at the first stage of yolov12n, by rows of queries over all heads.

    Other is what our dispatcher takes without this kernel: FlashAttention on most GPUs.
    """
    made, sequences = {}, 1
    while sequences <= MOST_SEQUENCES:
        rows = sequences * tokens * NANO_HEADS
        words = f"{sequences} x {tokens} tokens, {NANO_HEADS} heads, {rows} rows"
        made[rows] = Contest(words, 4 * HALF_BYTES * rows * HEAD, partial(_attend_ways, place, sequences, tokens))
        sequences *= 2
    return made


def _attend_ways(place: Place, sequences: int, tokens: int, sets: int) -> Mapping[str, Sequence[Call]]:
    import torch

    from yolov12.model.attention.dispatch import attend as by_dispatcher

    def heads() -> Any:
        packed = torch.randn(sequences, tokens, 3 * NANO_HEADS * HEAD, device=place.device).half()
        return [part.unflatten(2, (NANO_HEADS, HEAD)) for part in packed.split(NANO_HEADS * HEAD, 2)]

    buffers = [heads() for _ in range(sets)]
    return {
        OTHER: [partial(by_dispatcher, *one) for one in buffers],
        OURS: [partial(place.ops.attend, *one, False) for one in buffers],
        EARLY: [partial(place.ops.attend, *one, True) for one in buffers],
    }


def decode(place: Place, images: int) -> list[Contest]:
    """ultralytics' decoding of a head's outputs by torch's operations, against one kernel."""
    sizes = [(place.imgsz // stride, place.imgsz // stride) for stride in LEVELS]
    anchors = sum(height * width for height, width in sizes)
    moved = HALF_BYTES * images * anchors * (4 * BINS + CLASSES + 4 + CLASSES)
    return [Contest(f"{images} x {anchors} anchors", moved, partial(_decode_ways, place, images, sizes))]


def _decode_ways(
    place: Place, images: int, sizes: Sequence[tuple[int, int]], sets: int
) -> Mapping[str, Sequence[Call]]:
    import torch
    from ultralytics.nn.modules.head import Detect

    head = Detect(CLASSES, ch=(64, 128, 256)).to(place.device).half().eval()
    head.stride = torch.tensor([float(stride) for stride in LEVELS], device=place.device)
    maps = [torch.empty(images, 1, *size, device=place.device, dtype=torch.float16) for size in sizes]
    anchors, flat = sum(height * width for height, width in sizes), [number for size in sizes for number in size]

    def rows(channels: int) -> Any:
        return torch.randn(images, anchors, channels, device=place.device).half()

    buffers = [(rows(4 * BINS), rows(CLASSES)) for _ in range(sets)]
    turned = [[one.transpose(1, 2).contiguous() for one in pair] for pair in buffers]

    def by_torch(boxes: Any, scores: Any) -> Any:
        return head._inference({"boxes": boxes, "scores": scores, "feats": maps})

    def by_one(boxes: Any, scores: Any, early: bool) -> Any:
        return place.ops.decode(boxes, scores, head.stride, flat, CLASSES, True, early)

    return {
        OTHER: [partial(by_torch, *pair) for pair in turned],
        OURS: [partial(by_one, *pair, False) for pair in buffers],
        EARLY: [partial(by_one, *pair, True) for pair in buffers],
    }


def network(place: Place, size: str, images: int) -> list[Contest]:
    """yolov12`size` in channels_last from pictures on the device to predictions, as with YOLOV12_PREDICT_KERNELS=0 and 1."""
    return [Contest(f"yolov12{size}, {images} pictures", 0, partial(_network_ways, place, size, images))]


def _network_ways(place: Place, size: str, images: int, sets: int) -> Mapping[str, Sequence[Call]]:
    import torch
    from ultralytics.nn.tasks import DetectionModel

    from yolov12.model import blocks
    from yolov12.model.fused import inference, one_kernel

    def made(in_one_kernel: bool) -> Any:
        torch.manual_seed(0)
        inference.install(in_one_pass=True, in_one_kernel=in_one_kernel)  # what `fuse()` binds to each layer
        model = DetectionModel(f"yolo12{size}.yaml", nc=CLASSES, verbose=False).eval().fuse(verbose=False)
        inference.uninstall()
        return model.to(place.device).half().to(memory_format=torch.channels_last)

    several, one = made(False), made(True)
    shape = images, 3, place.imgsz, place.imgsz
    pictures = [torch.rand(shape, device=place.device).half() for _ in range(sets)]

    def by_kernels(x: Any, early: bool) -> Any:
        before = one_kernel.BEGINS_EARLY
        one_kernel.BEGINS_EARLY = early
        blocks.install()
        try:
            return one(x)[0]
        finally:
            blocks.uninstall()
            one_kernel.BEGINS_EARLY = before

    return {
        OTHER: [partial(lambda x: several(x)[0], x) for x in pictures],
        OURS: [partial(by_kernels, x, False) for x in pictures],
        EARLY: [partial(by_kernels, x, True) for x in pictures],
    }


class _Convolved(NamedTuple):
    """What a convolution reads and where it writes."""

    x: Any
    weight: Any
    bias: Any
    constants: Any
    """The bias as the shift of a batch norm that does nothing else (inference.forward_fuse_in_one_pass)."""
    y: Any


def _convolved(place: Place, shape: Convolution) -> _Convolved:
    import torch

    layout, half = torch.channels_last, {"device": place.device, "dtype": torch.float16}
    x = torch.randn(shape.images, shape.in_channels, shape.height, shape.width, **half).to(memory_format=layout)
    of_filter = shape.in_channels // shape.groups, shape.side, shape.side
    weight = torch.randn(shape.out_channels, *of_filter, **half) / (of_filter[0] * shape.side**2) ** 0.5
    bias = torch.randn(shape.out_channels, **half)
    constants = torch.zeros(4, shape.out_channels, device=place.device)
    constants[1:3] = 1
    constants[3] = bias
    size = shape.images, shape.out_channels, shape.out_height, shape.out_width
    y = torch.empty(size, **half, memory_format=layout)
    return _Convolved(x, weight.to(memory_format=layout), bias, constants, y)


def _by_torch(place: Place, shape: Convolution, one: _Convolved) -> Any:
    """cuDNN, then bias and SiLU in one pass of ours as YOLOV12_PREDICT_KERNELS=0 has them; torch alone adds a bias without SiLU."""
    import torch
    from torch.nn import functional as F

    if not shape.silu:
        return F.conv2d(one.x, one.weight, one.bias, shape.stride, shape.side // 2, 1, shape.groups)
    y = F.conv2d(one.x, one.weight, None, shape.stride, shape.side // 2, 1, shape.groups)
    out = torch.empty_like(y)
    place.ops.batch_norm_apply(y, one.constants, True, out, False)
    return out
