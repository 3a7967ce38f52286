# SPDX-License-Identifier: AGPL-3.0-or-later
"""C2f, C3 and A2C2f in inference. Where upstream divides, concatenates and adds, its parts read and write some channels of one tensor.

`into` runs any module: ours if it is here and nobody hooked himself onto its call, else its own call, whose answer is copied. So a block may
hold modules that are not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from ultralytics.nn.modules.block import C3, A2C2f, ABlock, Bottleneck, C2f, C3k, C3k2
from ultralytics.nn.modules.conv import Conv

from yolov12.model.blocks import attention
from yolov12.model.fused.beside import made_from
from yolov12.model.fused.one_kernel import convolved, convolved_by, is_undisturbed, serves
from yolov12.model.hooks import is_heard
from yolov12.seams import Seam

SEAMS = (
    # Replaced.
    Seam("nn/modules/block.py", 311, "ultralytics.nn.modules.block.C2f.forward", "93d582488191"),
    Seam("nn/modules/block.py", 346, "ultralytics.nn.modules.block.C3.forward", "c3d1d30746bc"),
    Seam("nn/modules/block.py", 1868, "ultralytics.nn.modules.block.A2C2f.forward", "b7aec929a5d8"),
    # Followed within these.
    Seam("nn/modules/block.py", 480, "ultralytics.nn.modules.block.Bottleneck.forward", "1c4180ea617d"),
    Seam("nn/modules/block.py", 1790, "ultralytics.nn.modules.block.ABlock.forward", "7d747c2c5e90"),
)

_upstream = {C2f: C2f.forward, C3: C3.forward, A2C2f: A2C2f.forward}


def install() -> None:
    """Replace the three forwards; again does nothing. Models that exist already change too."""
    C2f.forward, C3.forward, A2C2f.forward = c2f_forward, c3_forward, a2c2f_forward


def uninstall() -> None:
    """Put upstream's back."""
    for block, forward in _upstream.items():
        block.forward = forward


def c2f_forward(self: C2f, x: Tensor) -> Tensor:
    """Replaces ultralytics 8.4.190 nn/modules/block.py:311."""
    return _c2f(self, x, None) if _is_ours(self, x) else _upstream[C2f](self, x)


def c3_forward(self: C3, x: Tensor) -> Tensor:
    """Replaces ultralytics 8.4.190 nn/modules/block.py:346."""
    return _c3(self, x, None) if _is_ours(self, x) else _upstream[C3](self, x)


def a2c2f_forward(self: A2C2f, x: Tensor) -> Tensor:
    """Replaces ultralytics 8.4.190 nn/modules/block.py:1868."""
    return _a2c2f(self, x, None) if _is_ours(self, x) else _upstream[A2C2f](self, x)


def into(module: Any, x: Tensor, out: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """module(x), or residual + module(x).

    Args:
        x: (images, channels, height, width), which may be some channels of a channels_last tensor.
        out: where the answer goes, which may be some channels as well; by default a new tensor.
        residual: like the answer.
    """
    made = None
    if not is_heard(module):
        if type(module) is Conv:
            made = convolved(module.conv, module.act, x, residual, out)
        elif residual is None and type(module) in _RUNS:
            made = _RUNS[type(module)](module, x, out)
    if made is not None:
        return made
    y = module(x)
    y = y if residual is None else residual + y
    return y if out is None else out.copy_(y)


def _is_ours(block: C2f | C3 | A2C2f, x: Tensor) -> bool:
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks or not is_undisturbed(x):
        return False
    first = block.cv1
    # Parts of a whole are read 16 bytes at a time.
    return type(first) is Conv and serves(first.conv, first.act, x) and _hidden(block) % 8 == 0


def _hidden(block: C2f | C3 | A2C2f) -> int:
    """Channels of one part."""
    return block.c if isinstance(block, C2f) else block.cv1.conv.out_channels


def _whole(x: Tensor, channels: int) -> Tensor:
    size = x.shape[0], channels, *x.shape[2:]
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _c2f(block: C2f, x: Tensor, out: Tensor | None) -> Tensor:
    width = block.c
    whole = _whole(x, (2 + len(block.m)) * width)
    parts = whole.split(width, 1)
    into(block.cv1, x, whole[:, : 2 * width])
    for module, before, after in zip(block.m, parts[1:], parts[2:], strict=False):
        into(module, before, after)
    return into(block.cv2, whole, out)


def _c3(block: C3, x: Tensor, out: Tensor | None) -> Tensor:
    width = _hidden(block)
    whole = _whole(x, 2 * width)
    left, right = whole.split(width, 1)
    if _are_alike(block, x):
        # The last of m writes where its first has read before.
        convolved_by(block, *_both(block), x, stride=1, silu=type(block.cv1.act) is nn.SiLU, out=whole)
        into(block.m, left, left)
    else:
        into(block.m, into(block.cv1, x), left)
        into(block.cv2, x, right)
    return into(block.cv3, whole, out)


def _are_alike(block: C3, x: Tensor) -> bool:
    """Whether cv1 and cv2 can be one convolution, and what comes between may overwrite its input: a bottleneck reads that before it writes."""
    pair = block.cv1, block.cv2
    return (
        type(block.m) is nn.Sequential
        and all(type(module) is Bottleneck for module in block.m)
        and all(type(one) is Conv and not is_heard(one) and serves(one.conv, one.act, x) for one in pair)
        and all(one.conv.kernel_size == one.conv.stride == (1, 1) and one.conv.groups == 1 for one in pair)
        and type(block.cv1.act) is type(block.cv2.act)
        and len(block.cv1.conv.weight) == len(block.cv2.conv.weight)
    )


def _both(block: C3) -> tuple[Tensor, Tensor]:
    """The filters and biases of cv1, then of cv2."""
    one, other = block.cv1.conv, block.cv2.conv

    def make() -> tuple[Tensor, Tensor]:
        return torch.cat((one.weight, other.weight)), torch.cat((one.bias, other.bias))

    weight, bias = made_from(block, "both", [one.weight, one.bias, other.weight, other.bias], make)
    return weight, bias


def _a2c2f(block: A2C2f, x: Tensor, out: Tensor | None) -> Tensor:
    width = _hidden(block)
    whole = _whole(x, (1 + len(block.m)) * width)
    parts = whole.split(width, 1)
    into(block.cv1, x, parts[0])
    for module, before, after in zip(block.m, parts, parts[1:], strict=False):
        into(module, before, after)
    if block.gamma is None:
        return into(block.cv2, whole, out)
    y = x + block.gamma.view(-1, block.gamma.shape[0], 1, 1) * into(block.cv2, whole)
    return y if out is None else out.copy_(y)


def _bottleneck(block: Bottleneck, x: Tensor, out: Tensor | None) -> Tensor:
    return into(block.cv2, into(block.cv1, x), out, x if block.add else None)


def _sequence(modules: nn.Sequential, x: Tensor, out: Tensor | None) -> Tensor:
    *before, last = modules
    for module in before:
        x = into(module, x)
    return into(last, x, out)


def _ablock(block: ABlock, x: Tensor, out: Tensor | None) -> Tensor | None:
    if type(block.mlp) is not nn.Sequential or is_heard(block.mlp):
        return None
    attended = None if is_heard(block.attn) else attention.attended(block.attn, x, residual=x)
    x = x + block.attn(x) if attended is None else attended
    *before, last = block.mlp
    hidden = x
    for module in before:
        hidden = into(module, hidden)
    return into(last, hidden, out, x)


_RUNS: dict[type[nn.Module], Callable[..., Tensor | None]] = {
    C2f: _c2f,
    C3k2: _c2f,
    C3: _c3,
    C3k: _c3,
    A2C2f: _a2c2f,
    Bottleneck: _bottleneck,
    nn.Sequential: _sequence,
    ABlock: _ablock,
}
