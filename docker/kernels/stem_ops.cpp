// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops of `stem.h`. Everything that the kernels take for granted is checked here.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <climits>
#include <optional>

#include "device.h"
#include "stem.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

constexpr int64_t kBeside = 256;  // columns that are counted beyond a row, at most
constexpr int kFirstWithBFloat16 = 8;  // major compute capability whose tensor cores know it

bool has_code_for(const at::Tensor& x) {
  if (x.scalar_type() != at::kBFloat16) return is_supported(x.scalar_type());
  return capability(x.device().index()) >= kFirstWithBFloat16;
}

Strides strides_of(const at::Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

Stem dimensions(const at::Tensor& x, const at::Tensor& weight) {
  return {static_cast<int>(x.size(0)), static_cast<int>(x.size(2)), static_cast<int>(x.size(3)), static_cast<int>(weight.size(0)),
          type_of(x)};
}

// Whether there is code for the convolution of `x`, (images, 3, height, width), with `weight`, (channels, 3, 3, 3). Both may lie in any order.
bool is_stem(const at::Tensor& x, const at::Tensor& weight) {
  if (x.dim() != 4 || weight.dim() != 4 || !x.is_cuda() || weight.device() != x.device()) return false;
  if (weight.scalar_type() != x.scalar_type() || !has_code_for(x)) return false;
  const int64_t channels = weight.size(0);
  if (channels == 0 || channels % kStemGroup != 0 || channels > kMostStemChannels) return false;
  if (x.numel() == 0 || x.size(1) != kStemInputs) return false;
  if (weight.size(1) != kStemInputs || weight.size(2) != kStemSide || weight.size(3) != kStemSide) return false;
  // Pixels of a batch are counted as int, with a few beside each row, and so are places within a row of x and of y.
  const int64_t wide = x.size(3) + kBeside;
  return x.size(0) * (x.size(2) + 1) * wide <= INT_MAX && wide * std::max<int64_t>(x.stride(3), kMostStemChannels) <= INT_MAX;
}

Stem shape_of(const at::Tensor& x, const at::Tensor& weight) {
  TORCH_CHECK(is_stem(x, weight), "yolov12_kernels: x of shape ", x.sizes(), ", ", x.scalar_type(), ", with a filter of ", weight.sizes(), ", ",
              weight.scalar_type(), ": x must have 3 channels and the filter must be (channels, 3, 3, 3) of the same type, with channels a ",
              "multiple of ", kStemGroup, " up to ", kMostStemChannels, ", and for bfloat16 the GPU must be sm_80 or newer");
  return dimensions(x, weight);
}

// The convolution with stride 2 and one zero around, channels_last.
at::Tensor stem_op(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Stem shape = shape_of(x, weight);
  TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == shape.channels && bias->is_contiguous() &&
                        bias->scalar_type() == x.scalar_type() && bias->device() == x.device()),
              "yolov12_kernels: the bias must be a contiguous number of x's type for each channel");
  at::Tensor y = at::empty({shape.images, shape.channels, shape.rows(), shape.columns()},
                           x.options().memory_format(at::MemoryFormat::ChannelsLast));
  stem(shape, {x.const_data_ptr(), strides_of(x)}, {weight.const_data_ptr(), strides_of(weight)}, bias ? bias->const_data_ptr() : nullptr,
       y.mutable_data_ptr(), multiprocessors(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

// As `weight`, of which only this and the shape are asked.
at::Tensor weight_gradient_op(const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Stem shape = shape_of(x, weight);
  const std::array<int64_t, 4> sizes{shape.images, shape.channels, shape.rows(), shape.columns()};
  TORCH_CHECK(grad_y.sizes() == at::IntArrayRef(sizes) && grad_y.scalar_type() == x.scalar_type() && grad_y.device() == x.device(),
              "yolov12_kernels: grad_y must be ", at::IntArrayRef(sizes), " ", x.scalar_type(), " on ", x.device(), ", and is ", grad_y.sizes(),
              " ", grad_y.scalar_type(), " on ", grad_y.device());
  const Rows grads = rows_of(grad_y, "grad_y");
  TORCH_CHECK(grads.stride * (x.size(3) + kBeside) <= INT_MAX, "yolov12_kernels: rows of grad_y lie too far apart: ", grads.stride);
  const int count = multiprocessors(), blocks = stem_blocks(shape, count);
  const at::Tensor partials = floats(static_cast<int64_t>(blocks) * weight.numel(), x);
  at::Tensor grad_weight = at::empty_like(weight);
  stem_weight_gradient(shape, {x.const_data_ptr(), strides_of(x)}, grads, grad_weight.mutable_data_ptr(),
                       strides_of(grad_weight), partials.mutable_data_ptr<float>(), blocks, count, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("stem(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  library.def("stem_weight_gradient(Tensor grad_y, Tensor x, Tensor weight) -> Tensor");
  library.def("is_stem(Tensor x, Tensor weight) -> bool", &is_stem);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("stem", &stem_op);
  library.impl("stem_weight_gradient", &weight_gradient_op);
}

}  // namespace yolov12_kernels
