# SPDX-License-Identifier: AGPL-3.0-or-later
"""`AAttn.forward` replaced in place: one layout for every backend, and the same module to everyone else.

The class stays ultralytics' own and instances hold nothing of ours, so state dicts, pickles and checkpoints are those
of stock.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from ultralytics.nn.modules.block import AAttn

from yolov12.model.attention import flops
from yolov12.model.attention.dispatch import attend
from yolov12.model.attention.op import merge_heads, split_heads_for_two
from yolov12.seams import Seam

SEAMS = (
    Seam("nn/modules/block.py", 1699, "ultralytics.nn.modules.block.AAttn.forward", "f16c0ffa0bb6"),
    Seam("nn/modules/block.py", 1674, "ultralytics.nn.modules.block.AAttn.__init__", "281c3cc9db2b"),
)

_upstream_forward = AAttn.forward


def forward(self: AAttn, x: Tensor) -> Tensor:
    """Area attention over (batch, channels, height, width), returned in channels_last.

    Replaces ultralytics 8.4.190 nn/modules/block.py:1699. Into ONNX and TorchScript upstream's own forward is traced:
    what leaves this package is the graph of stock, made of operators that every runtime knows. torch.compile
    gets the fused kernel, `torch.export` torch's public function for it.
    """
    if torch.jit.is_tracing() or _is_in_onnx_export():
        return _upstream_forward(self, x)
    batch, _, height, width = x.shape
    qkv = self.qkv(x)
    if batch == 1 and qkv.requires_grad and qkv.device.type == "cpu":
        # The gradient of one image in NHWC looks like NCHW to the CPU batch norm of torch 2.11, which then returns wrong numbers.
        qkv.register_hook(Tensor.contiguous)
    q, k, v, v_of_pe = split_heads_for_two(qkv, self.num_heads, self.head_dim, self.area)
    attended = merge_heads(attend(q, k, v), batch, height, width)
    return self.proj(attended + self.pe(merge_heads(v_of_pe, batch, height, width)))


def _is_in_onnx_export() -> bool:
    # Only asking would import torch.onnx. A compiler that traces this asks torch itself: it can not look into sys.modules.
    return (torch.compiler.is_compiling() or "torch.onnx" in sys.modules) and torch.onnx.is_in_onnx_export()


def install() -> None:
    """Replace `AAttn.forward`; again does nothing. Models that exist already change too."""
    AAttn.forward = forward
    flops.register()


def uninstall() -> None:
    """Put upstream's forward back."""
    AAttn.forward = _upstream_forward
    flops.unregister()
