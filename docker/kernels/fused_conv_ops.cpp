// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `fused_conv.h`. Everything that the kernel takes for granted is checked here.
#include "fused_conv.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <array>
#include <climits>
#include <optional>

#include "pixel_tensors.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

// Whether `weight`, (out_channels, in_channels, side, side), has the channels of each tap side by side.
bool is_filter_of(const at::Tensor& weight, const at::Tensor& x) {
  if (weight.dim() != 4 || weight.scalar_type() != x.scalar_type() || weight.device() != x.device()) return false;
  const int64_t side = weight.size(2), channels = weight.size(1);
  if ((side != 1 && side != 3) || weight.size(3) != side || channels != x.size(1) || weight.size(0) == 0) return false;
  if (weight.size(0) % kNumbersOfLoad != 0 || weight.numel() > INT_MAX || !is_at_load(weight)) return false;
  const bool taps_follow = side == 1 || (weight.stride(3) == channels && weight.stride(2) == side * channels);
  return weight.stride(1) == 1 && taps_follow && (weight.size(0) == 1 || weight.stride(0) == side * side * channels);
}

// Places in x are counted as int, and so are pixels.
bool is_fused_conv(const at::Tensor& x, const at::Tensor& weight, int64_t stride) {
  if (!x.is_cuda() || !is_pixels(x) || !is_filter_of(weight, x) || (stride != 1 && stride != 2)) return false;
  const c10::cuda::CUDAGuard guard(x.device());
  return x.size(0) * image_stride(x) <= INT_MAX && copies_beside();
}

FusedConv shape_of(const at::Tensor& x, const at::Tensor& weight, int64_t stride, bool silu) {
  TORCH_CHECK(is_fused_conv(x, weight, stride), "yolov12_kernels: x of shape ", x.sizes(), " and strides ", x.strides(), ", ", x.scalar_type(),
              ", with a filter of ", weight.sizes(), " and strides ", weight.strides(), ", ", weight.scalar_type(), " and stride ", stride,
              ": both must be channels_last, float16 or bfloat16, with channels a multiple of 8, the filter's side 1 or 3, its stride 1 or 2, "
              "on a GPU from sm_80 on");
  return {static_cast<int>(x.size(0)),      static_cast<int>(x.size(2)),      static_cast<int>(x.size(3)), static_cast<int>(x.size(1)),
          static_cast<int>(weight.size(0)), static_cast<int>(weight.size(2)), static_cast<int>(stride),    type_of(x),
          silu ? Activation::kSiLU : Activation::kNone};
}

void fused_conv_op(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t stride, bool silu,
                   const std::optional<at::Tensor>& residual, const at::Tensor& out, std::optional<int64_t> tile, bool early) {
  const c10::cuda::CUDAGuard guard(x.device());
  const FusedConv shape = shape_of(x, weight, stride, silu);
  const std::array<int64_t, 4> sizes{shape.images, shape.out_channels, shape.out_height(), shape.out_width()};
  check_pixels(out, sizes, x, "out");
  if (residual) check_pixels(*residual, sizes, x, "the residual");
  check_bias(bias, shape.out_channels, x);
  const int chosen = tile ? static_cast<int>(*tile) : tile_for(shape, multiprocessors());
  TORCH_CHECK(chosen >= 0 && chosen < kTileCount, "yolov12_kernels: there are tiles 0 to ", kTileCount - 1, ", and not ", chosen);
  fused_conv(shape, chosen, pixels_of(x), weight.const_data_ptr(), bias.const_data_ptr(), residual ? pixels_of(*residual) : Pixels{},
             pixels_of(out), early && begins_early(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// Which tile is taken for these where none is named: for who measures the choice (benchmarks/programs/kernels.py).
int64_t fused_conv_tile(const at::Tensor& x, const at::Tensor& weight, int64_t stride) {
  const FusedConv shape = shape_of(x, weight, stride, /*silu=*/true);
  const c10::cuda::CUDAGuard guard(x.device());
  return tile_for(shape, multiprocessors());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def(
      "fused_conv(Tensor x, Tensor weight, Tensor bias, int stride, bool silu, Tensor? residual, Tensor(a!) out, int? tile=None, bool early=False)"
      " -> ()");
  library.def("fused_conv_tile(Tensor x, Tensor weight, int stride) -> int", &fused_conv_tile);
  library.def("is_fused_conv(Tensor x, Tensor weight, int stride) -> bool", &is_fused_conv);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("fused_conv", &fused_conv_op); }

}  // namespace yolov12_kernels
