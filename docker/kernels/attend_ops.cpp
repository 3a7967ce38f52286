// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `attend.h`. Everything that the kernel takes for granted is checked here.
#include "attend.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <climits>

#include "pixel_tensors.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

constexpr int kMostBlocks = 65535;  // in a grid's second and third dimension, of any GPU

// Whether `t`, (sequences, tokens, heads, 32), has the numbers of each head in 16-byte loads.
bool is_heads(const at::Tensor& t) {
  if (t.dim() != 4 || t.numel() == 0 || t.size(3) != kHeadNumbers || t.stride(3) != 1 || !is_at_load(t)) return false;
  if (t.scalar_type() != at::kHalf && t.scalar_type() != at::kBFloat16) return false;
  for (const int dimension : {0, 1, 2}) {
    if (t.size(dimension) > 1 && t.stride(dimension) % kNumbersOfLoad != 0) return false;
  }
  return t.size(0) <= kMostBlocks && t.size(1) <= INT_MAX && t.size(2) <= kMostBlocks;
}

bool is_attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (!q.is_cuda()) return false;
  for (const at::Tensor& t : {q, k, v}) {
    if (!is_heads(t) || t.sizes() != q.sizes() || t.scalar_type() != q.scalar_type() || t.device() != q.device()) return false;
  }
  const c10::cuda::CUDAGuard guard(q.device());
  return copies_beside();
}

Heads heads_of(const at::Tensor& t) { return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), t.stride(2)}; }

at::Tensor attend_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool early) {
  const c10::cuda::CUDAGuard guard(q.device());
  TORCH_CHECK(is_attend(q, k, v), "yolov12_kernels: q, k and v must be (sequences, tokens, heads, 32), float16 or bfloat16, with the numbers of a ",
              "head side by side in 16-byte loads, on a GPU from sm_80 on, and are ", q.sizes(), ", ", k.sizes(), " and ", v.sizes(), " with strides ",
              q.strides(), ", ", k.strides(), " and ", v.strides(), ", ", q.scalar_type());
  const at::Tensor out = at::empty(q.sizes(), q.options().memory_format(at::MemoryFormat::Contiguous));
  const Attention shape{static_cast<int>(q.size(0)), static_cast<int>(q.size(1)), static_cast<int>(q.size(2)), type_of(q)};
  attend(shape, heads_of(q), heads_of(k), heads_of(v), heads_of(out), early && begins_early(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("attend(Tensor q, Tensor k, Tensor v, bool early=False) -> Tensor");
  library.def("is_attend(Tensor q, Tensor k, Tensor v) -> bool", &is_attend);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("attend", &attend_op); }

}  // namespace yolov12_kernels
