# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kinds of kernels, by the names that a profile on a GPU had (benchmarks/records/2026-11-29-nvidia-h200/step_kernels.log)."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from benchmarks.record import RECORDS
from benchmarks.step import kinds

LOG = RECORDS / "2026-11-29-nvidia-h200" / "step_kernels.log"
KERNEL = re.compile(r"^ +[\d.]+ ms +\d+ x (.*)$")


def names() -> list[str]:
    """The names in the log's two tables of single kernels, and what its categories name of a kernel."""
    found = [match[1] for line in LOG.read_text().splitlines() if (match := KERNEL.match(line))]
    own_words = {"conv/gemm/cudnn", "elementwise", "cat", "reduce", "multi_tensor", "memset", "memcpy"}
    return sorted({name.removeprefix("ours:").removeprefix("other:") for name in found} - own_words)


def function(name: str) -> str:
    """The last word of a C++ name before its parameters, which the log may have cut off."""
    return re.match(r".*?(\w+) ?(?:[<(]|$)", name.removeprefix("void ").replace("(anonymous namespace)::", ""))[1]


def test_the_names_of_the_log_fall_into_their_kinds():
    of_kind = defaultdict(set)
    for name in names():
        of_kind[kinds.kind_of(name)].add(function(name))
    assert sum(len(found) for found in of_kind.values()) > 40
    assert set(of_kind) == set(kinds.KINDS)
    assert of_kind[kinds.LOSS] == set(
        "choose decode finish pair_gradient score_gradient settle sum_pairs sum_scores weigh".split()
    )
    assert {name[:11] for name in of_kind[kinds.BATCH_NORM]} == set(
        "sum_values finish_stat apply_kerne sum_gradien finish_grad gradient_ke".split()
    )
    assert of_kind[kinds.OPTIMIZER] == {"lpnorm_cleanup"}
    assert {name.split("_")[0] for name in of_kind[kinds.REST]} == {"upsample", "reduce"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_tst_128x160_64x5_1x2_h_bz_NNT", kinds.CONVOLUTION),
        ("void nhwcAddPaddingKernel<__nv_bfloat16, __nv_bfloat16, float, true>(int)", kinds.CONVOLUTION),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_bf16_64x64_64x6_nt_align8>(...)", kinds.CONVOLUTION),
        ("wgrad2d_c1_k1_nhwc", kinds.CONVOLUTION),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64", kinds.ATTENTION),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", kinds.ATTENTION),
        ("void yolov12_kernels::(anonymous namespace)::apply_kernel<__nv_bfloat16>(long)", kinds.BATCH_NORM),
        ("yolov12_kernels::(anonymous namespace)::finish_gradients(float*)", kinds.BATCH_NORM),
        ("yolov12_kernels::(anonymous namespace)::finish(float const*, int)", kinds.LOSS),
        ("void yolov12_kernels::(anonymous namespace)::depthwise_kernel<__nv_bfloat16, 7>(x)", kinds.CONVOLUTION),
        ("void yolov12_kernels::(anonymous namespace)::fused_depthwise_kernel<__half, 7, 1>(x)", kinds.CONVOLUTION),
        ("void yolov12_kernels::(anonymous namespace)::fused_conv_kernel<__half, 32, 32>(x)", kinds.CONVOLUTION),
        ("void yolov12_kernels::(anonymous namespace)::decode_kernel<__half>(x)", kinds.REST),
        ("void yolov12_kernels::(anonymous namespace)::candidates_kernel<__half>(x)", kinds.REST),
        ("void yolov12_kernels::(anonymous namespace)::stands_kernel<float>(x)", kinds.REST),
        ("void yolov12_kernels::(anonymous namespace)::letterbox_kernel<__half>(x)", kinds.REST),
        ("void yolov12_kernels::(anonymous namespace)::attend_kernel<__half>(x)", kinds.ATTENTION),
        ("void yolov12_kernels::(anonymous namespace)::join_kernel<__nv_bfloat16, 2>(x)", kinds.CONCATENATION),
        ("void yolov12_kernels::(anonymous namespace)::sum_taps<__nv_bfloat16, 7>(x)", kinds.CONVOLUTION),
        ("void yolov12_kernels::(anonymous namespace)::finish_taps<__half>(float const*)", kinds.CONVOLUTION),
        ("void yolov12_kernels::stem_kernel<__nv_bfloat16, 1, true>(unsigned short const*)", kinds.CONVOLUTION),
        ("void yolov12_kernels::sum_stem<__nv_bfloat16, 1, true>(unsigned short const*)", kinds.CONVOLUTION),
        ("void yolov12_kernels::(anonymous namespace)::warp_kernel<false>(x)", kinds.REST),
        ("yolov12_kernels::(anonymous namespace)::levels_kernel(double const*, unsigned char*)", kinds.REST),
        ("yolov12_kernels::(anonymous namespace)::recolour_kernel(unsigned char const*)", kinds.REST),
        ("void yolov12_kernels::(anonymous namespace)::score_gradient<__nv_bfloat16>(x)", kinds.LOSS),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda(at::T)>", kinds.COPY),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::bfloat16_copy_kernel_cuda(x)", kinds.COPY),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<x>>", kinds.ELEMENTWISE),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", kinds.FILL),
        ("Memset (Device)", kinds.FILL),
        ("Memcpy HtoD (Pinned -> Device)", kinds.COPY),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<x>", kinds.OPTIMIZER),
        ("void at::native::lpnorm_cleanup<float, (at::native::NormType)1, float>", kinds.OPTIMIZER),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", kinds.REST),
        ("void at::native::reduce_kernel<128, 4, at::native::ReduceOp<c10::BFloat16>>", kinds.REST),
        ("something that is made next year", kinds.REST),
    ],
)
def test_a_name_tells_the_kind(name, kind):
    assert kinds.kind_of(name) == kind
