// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `fused_depthwise.h`. Everything that the kernel takes for granted is checked here.
#include "fused_depthwise.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <climits>
#include <optional>

#include "pixel_tensors.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

// Whether there is code for a filter of this side on these pixels. What threads make is counted as int.
bool is_fused_depthwise(const at::Tensor& x, int64_t side) {
  return x.is_cuda() && is_pixels(x) && (side == 3 || side == 5 || side == 7) && x.numel() / kNumbersOfLoad <= INT_MAX;
}

// `taps` is (side, side, channels).
void fused_depthwise_op(const at::Tensor& x, const at::Tensor& taps, const at::Tensor& bias, bool silu,
                        const std::optional<at::Tensor>& residual, const at::Tensor& out, bool early) {
  const c10::cuda::CUDAGuard guard(x.device());
  TORCH_CHECK(taps.dim() == 3 && taps.size(0) == taps.size(1) && is_fused_depthwise(x, taps.size(0)) && taps.size(2) == x.size(1) &&
                  taps.is_contiguous() && is_at_load(taps) && taps.scalar_type() == x.scalar_type() && taps.device() == x.device(),
              "yolov12_kernels: x of shape ", x.sizes(), " and strides ", x.strides(), ", ", x.scalar_type(), ", with taps of ", taps.sizes(), ", ",
              taps.scalar_type(), ": x must be channels_last, float16 or bfloat16, with channels a multiple of 8, and the taps (side, side, ",
              "channels) of the same type, contiguous, with a side of 3, 5 or 7");
  check_bias(bias, x.size(1), x);
  check_pixels(out, x.sizes(), x, "out");
  if (residual) check_pixels(*residual, x.sizes(), x, "the residual");
  const FusedDepthwise shape{static_cast<int>(x.size(0)), static_cast<int>(x.size(2)),    static_cast<int>(x.size(3)), static_cast<int>(x.size(1)),
                             static_cast<int>(taps.size(0)), type_of(x), silu ? Activation::kSiLU : Activation::kNone};
  fused_depthwise(shape, pixels_of(x), taps.const_data_ptr(), bias.const_data_ptr(), residual ? pixels_of(*residual) : Pixels{}, pixels_of(out),
                  early && begins_early(), multiprocessors(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("fused_depthwise(Tensor x, Tensor taps, Tensor bias, bool silu, Tensor? residual, Tensor(a!) out, bool early=False) -> ()");
  library.def("is_fused_depthwise(Tensor x, int side) -> bool", &is_fused_depthwise);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("fused_depthwise", &fused_depthwise_op); }

}  // namespace yolov12_kernels
