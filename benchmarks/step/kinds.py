# SPDX-License-Identifier: AGPL-3.0-or-later
"""What kind of work a kernel does, by its name. The names are those of torch 2.11, cuDNN 9 and docker/kernels; a name nobody knows is "rest"."""

from __future__ import annotations

import re

CONVOLUTION = "convolution, matrix product"
BATCH_NORM = "our batch norm kernels"
ATTENTION = "attention"
ELEMENTWISE = "element by element"
CONCATENATION = "concatenation"
COPY = "copies"
FILL = "memset"
LOSS = "loss"
OPTIMIZER = "optimizer"
REST = "rest"

KINDS = (CONVOLUTION, BATCH_NORM, ATTENTION, ELEMENTWISE, CONCATENATION, COPY, FILL, LOSS, OPTIMIZER, REST)
"""In the order of the table."""

_BATCH_NORM = "sum_values|finish_stat|apply_kernel|sum_gradients|finish_gradients|gradient_kernel"
"""docker/kernels/batch_norm_*.cu."""
_DEPTHWISE = "(fused_)?depthwise_kernel|planes_kernel|sum_taps|finish_taps"
"""docker/kernels/depthwise.cu, and fused_depthwise.cu of inference."""
_FUSED = "fused_conv_kernel"
"""docker/kernels/fused_conv.cu, of inference."""
_STEM = "stem_kernel|stem_floats_kernel|sum_stem|finish_stem"
"""docker/kernels/stem.cu."""
_JOIN = "join_kernel|join_doubled_kernel|halve_kernel"
"""docker/kernels/join.cu: concatenations, with the sums, copies and upsampling that they do on the way."""
_AUGMENTATION = "warp_kernel|levels_kernel|recolour_kernel"
"""docker/kernels/augment.cu."""
_AROUND = "decode_kernel|letterbox_kernel|candidates_kernel|stands_kernel"
"""docker/kernels/decode.cu, letterbox.cu and suppress.cu, of inference; all others that are ours belong to the loss."""

_PATTERNS = (
    # Ours first: what stands between < and > may be anybody's word.
    (BATCH_NORM, rf"yolov12_kernels::(\(anonymous namespace\)::)?({_BATCH_NORM})"),
    (CONVOLUTION, rf"yolov12_kernels::(\(anonymous namespace\)::)?({_DEPTHWISE}|{_FUSED}|{_STEM})"),
    (CONCATENATION, rf"yolov12_kernels::(\(anonymous namespace\)::)?({_JOIN})"),
    (REST, rf"yolov12_kernels::(\(anonymous namespace\)::)?({_AUGMENTATION}|{_AROUND})"),
    (ATTENTION, r"yolov12_kernels::(\(anonymous namespace\)::)?attend_kernel"),
    (LOSS, r"yolov12_kernels::"),
    (FILL, r"^memset|FillFunctor"),
    # Attention before products: its kernels are made of them, and cuDNN's and CUTLASS' say so.
    (ATTENTION, r"sdpa|flash|fmha|attention"),
    # Before element by element: torch copies strided tensors, and changes their type, by its element by element kernels.
    (COPY, r"^memcpy|copy_kernel"),
    (CONCATENATION, r"CatArrayBatchedCopy"),
    # torch's kernels over lists of tensors: the optimizer, the clipped norm, EMA, and the sum of gradients put aside.
    (OPTIMIZER, r"multi_tensor_apply|lpnorm_cleanup|fused_?(sgd|adam)"),
    (ELEMENTWISE, r"elementwise"),
    (
        CONVOLUTION,
        r"conv(?!ert)|[dw]grad|fprop|gemm|gemv|nvjet|xmma|cutlass|cudnn|nhwcAddPadding|nchwToNhwc|nhwcToNchw|winograd|splitKreduce",
    ),
)
_COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS)


def kind_of(name: str) -> str:
    """One of `KINDS`.

    Args:
        name: of a kernel, or of a copy or fill ("Memcpy HtoD (Pinned -> Device)"), as the profiler has it; it may be cut off at its end.
    """
    return next((kind for kind, pattern in _COMPILED if pattern.search(name)), REST)
