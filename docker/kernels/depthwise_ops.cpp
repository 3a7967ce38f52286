// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops of `depthwise.h`. Everything that the kernels take for granted is checked here.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <climits>

#include "depthwise.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

// Whether `weight`, (channels, 1, side, side), is a filter that there is code for, for a convolution of `x`.
bool is_depthwise(const at::Tensor& x, const at::Tensor& weight) {
  if (!is_rows(x) || weight.dim() != 4 || weight.scalar_type() != x.scalar_type() || weight.device() != x.device()) return false;
  const int64_t side = weight.size(2);
  if (weight.size(0) != x.size(1) || weight.size(1) != 1 || weight.size(3) != side || !weight.is_contiguous()) return false;
  // Places within a row, and a few beside it, are counted as int, and so are pixels.
  if (x.size(0) * x.size(2) * x.size(3) > INT_MAX || row_stride(x) * (x.size(3) + kLargeFilter) > INT_MAX) return false;
  return side == kSmallFilter || side == kMiddleFilter || side == kLargeFilter;
}

Depthwise shape_of(const at::Tensor& x, const at::Tensor& weight) {
  TORCH_CHECK(is_depthwise(x, weight), "yolov12_kernels: x of shape ", x.sizes(), " and strides ", x.strides(), ", ", x.scalar_type(),
              ", with a filter of ", weight.sizes(), ", ", weight.scalar_type(),
              ": x must be channels_last with channels a multiple of 16 bytes, and the filter (channels, 1, side, side) of the same type, "
              "contiguous, with a side of 3, 5 or 7");
  return {static_cast<int>(x.size(0)), static_cast<int>(x.size(2)), static_cast<int>(x.size(3)), static_cast<int>(x.size(1)),
          static_cast<int>(weight.size(2)), type_of(x)};
}

// The convolution with stride 1 that keeps the size; `turned`: with the filter turned round, which makes the gradient of x from that of y.
at::Tensor depthwise_op(const at::Tensor& x, const at::Tensor& weight, bool turned) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Depthwise shape = shape_of(x, weight);
  at::Tensor y = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::ChannelsLast));
  depthwise(shape, rows_of(x, "x"), weight.const_data_ptr(), rows_of(y, "y"), turned, multiprocessors(),
            c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

at::Tensor weight_gradient_op(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Depthwise shape = shape_of(x, weight);
  TORCH_CHECK(grad_y.sizes() == x.sizes() && grad_y.scalar_type() == x.scalar_type() && grad_y.device() == x.device(),
              "yolov12_kernels: grad_y must be like x, ", x.sizes(), " ", x.scalar_type(), " on ", x.device(), ", and is ", grad_y.sizes(),
              " ", grad_y.scalar_type(), " on ", grad_y.device());
  shape_of(grad_y, weight);
  const int count = walkers(shape, multiprocessors());
  const at::Tensor partials = floats(count * weight.numel(), x);
  at::Tensor grad_weight = at::empty_like(weight);
  weight_gradient(shape, rows_of(x, "x"), rows_of(grad_y, "grad_y"), grad_weight.mutable_data_ptr(), partials.mutable_data_ptr<float>(),
                  count, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("depthwise(Tensor x, Tensor weight, bool turned) -> Tensor");
  library.def("depthwise_weight_gradient(Tensor grad_y, Tensor x, Tensor weight) -> Tensor");
  library.def("is_depthwise(Tensor x, Tensor weight) -> bool", &is_depthwise);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("depthwise", &depthwise_op);
  library.impl("depthwise_weight_gradient", &weight_gradient_op);
}

}  // namespace yolov12_kernels
