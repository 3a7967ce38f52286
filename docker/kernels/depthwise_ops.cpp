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
#include <optional>

#include "depthwise.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

// Whether `weight`, (channels, 1, side, side), is a filter that there is code for, for the channels of `x`.
bool is_filter_of(const at::Tensor& weight, const at::Tensor& x) {
  if (weight.dim() != 4 || weight.scalar_type() != x.scalar_type() || weight.device() != x.device()) return false;
  const int64_t side = weight.size(2);
  if (weight.size(0) != x.size(1) || weight.size(1) != 1 || weight.size(3) != side || !weight.is_contiguous()) return false;
  return side == kSmallFilter || side == kMiddleFilter || side == kLargeFilter;
}

bool is_depthwise(const at::Tensor& x, const at::Tensor& weight) {
  // Places within a row, and a few beside it, are counted as int, and so are pixels.
  return is_rows(x) && is_filter_of(weight, x) && x.size(0) * x.size(2) * x.size(3) <= INT_MAX &&
         row_stride(x) * (x.size(3) + kLargeFilter) <= INT_MAX;
}

// As `is_depthwise`, for planes; the images may be some channels of larger ones. Places within a plane are counted as int, and so are blocks, of
// which none makes less than a pixel.
bool is_depthwise_planes(const at::Tensor& x, const at::Tensor& weight) {
  return x.dim() == 4 && x.numel() > 0 && x.numel() <= INT_MAX && x.select(0, 0).is_contiguous() && is_supported(x.scalar_type()) &&
         is_filter_of(weight, x);
}

Depthwise dimensions(const at::Tensor& x, const at::Tensor& weight) {
  return {static_cast<int>(x.size(0)), static_cast<int>(x.size(2)), static_cast<int>(x.size(3)), static_cast<int>(x.size(1)),
          static_cast<int>(weight.size(2)), type_of(x)};
}

Depthwise shape_of(const at::Tensor& x, const at::Tensor& weight) {
  TORCH_CHECK(is_depthwise(x, weight), "yolov12_kernels: x of shape ", x.sizes(), " and strides ", x.strides(), ", ", x.scalar_type(),
              ", with a filter of ", weight.sizes(), ", ", weight.scalar_type(),
              ": x must be channels_last with channels a multiple of 16 bytes, and the filter (channels, 1, side, side) of the same type, "
              "contiguous, with a side of 3, 5 or 7");
  return dimensions(x, weight);
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

at::Tensor planes_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  TORCH_CHECK(is_depthwise_planes(x, weight), "yolov12_kernels: x of shape ", x.sizes(), " and strides ", x.strides(), ", ",
              x.scalar_type(), ", with a filter of ", weight.sizes(), ", ", weight.scalar_type(),
              ": each image and the filter must be contiguous and of one type, and the filter (channels, 1, side, side) with a side of 3, 5 or 7");
  TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == x.size(1) && bias->is_contiguous() && bias->scalar_type() == x.scalar_type() &&
                        bias->device() == x.device()),
              "yolov12_kernels: the bias must be a contiguous number of x's type for each channel");
  at::Tensor y = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous));
  depthwise_planes(dimensions(x, weight), x.const_data_ptr(), x.stride(0), weight.const_data_ptr(), bias ? bias->const_data_ptr() : nullptr,
                   y.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream());
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
  const int count = partial_sums(shape, multiprocessors());
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
  library.def("depthwise_planes(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  library.def("is_depthwise(Tensor x, Tensor weight) -> bool", &is_depthwise);
  library.def("is_depthwise_planes(Tensor x, Tensor weight) -> bool", &is_depthwise_planes);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("depthwise", &depthwise_op);
  library.impl("depthwise_planes", &planes_op);
  library.impl("depthwise_weight_gradient", &weight_gradient_op);
}

}  // namespace yolov12_kernels
