// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch ops of `batch_norm_act.h`. Everything that the kernels take for granted is checked here.
//
// No Python header is included: the library loads into every Python that has the torch it was built against.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "batch_norm_act.h"
#include "tensors.h"

namespace yolov12_kernels {
namespace {

Shape shape_of(const at::Tensor& y, bool silu) {
  TORCH_CHECK(y.dim() == 4, "yolov12_kernels: y must be (images, channels, height, width), and is ", y.sizes());
  return {y.size(0) * y.size(2) * y.size(3), static_cast<int>(y.size(1)), type_of(y), silu ? Activation::kSiLU : Activation::kNone};
}

void check_same(const at::Tensor& t, const at::Tensor& y, const char* name) {
  TORCH_CHECK(t.sizes() == y.sizes() && t.scalar_type() == y.scalar_type() && t.device() == y.device(), "yolov12_kernels: ", name,
              " must be like y, ", y.sizes(), " ", y.scalar_type(), " on ", y.device(), ", and is ", t.sizes(), " ", t.scalar_type(),
              " on ", t.device());
}

const float* channel_values(const at::Tensor& t, const at::Tensor& y, const char* name) {
  TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous() && t.numel() == y.size(1) && t.device() == y.device(),
              "yolov12_kernels: ", name, " must be ", y.size(1), " float32 values on ", y.device(), ", and is ", t.sizes(), " ",
              t.scalar_type(), " on ", t.device());
  return t.const_data_ptr<float>();
}

// Batch statistics of y and what follows from them: (4, channels), mean, 1 / deviation, scale and shift. Updates the running statistics.
at::Tensor statistics_op(const at::Tensor& y, const at::Tensor& gamma, const at::Tensor& beta,
                         const std::optional<at::Tensor>& running_mean, const std::optional<at::Tensor>& running_variance,
                         const std::optional<at::Tensor>& batches, double momentum, double epsilon) {
  const c10::cuda::CUDAGuard guard(y.device());
  const Shape shape = shape_of(y, false);
  const Rows rows = rows_of(y, "y");
  Running running{nullptr, nullptr, nullptr, static_cast<float>(momentum)};
  if (running_mean) running.mean = const_cast<float*>(channel_values(*running_mean, y, "running_mean"));
  if (running_variance) running.variance = const_cast<float*>(channel_values(*running_variance, y, "running_var"));
  TORCH_CHECK((running.mean == nullptr) == (running.variance == nullptr), "yolov12_kernels: running_mean and running_var go together");
  if (batches) {
    TORCH_CHECK(batches->scalar_type() == at::kLong && batches->device() == y.device(),
                "yolov12_kernels: num_batches_tracked must be int64 on ", y.device());
    running.batches = batches->mutable_data_ptr<int64_t>();
  }
  const at::Tensor scratch = floats(statistics_scratch(shape, multiprocessors()), y);
  at::Tensor constants = floats(static_cast<int64_t>(kConstants) * shape.channels, y).view({kConstants, shape.channels});
  statistics(shape, rows, channel_values(gamma, y, "gamma"), channel_values(beta, y, "beta"), static_cast<float>(epsilon), running,
             constants.mutable_data_ptr<float>(), scratch.mutable_data_ptr<float>(), multiprocessors(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return constants;
}

const float* constants_of(const at::Tensor& constants, const at::Tensor& y) {
  TORCH_CHECK(constants.scalar_type() == at::kFloat && constants.is_contiguous() && constants.numel() == kConstants * y.size(1) &&
                  constants.device() == y.device() && reinterpret_cast<uintptr_t>(constants.const_data_ptr()) % 16 == 0,
              "yolov12_kernels: constants must be what batch_norm_statistics returned for y");
  return constants.const_data_ptr<float>();
}

// out = act(scale * y + shift), or out += that.
void apply_op(const at::Tensor& y, const at::Tensor& constants, bool silu, at::Tensor& out, bool accumulate) {
  const c10::cuda::CUDAGuard guard(y.device());
  check_same(out, y, "out");
  const Shape shape = shape_of(y, silu);
  const Rows in = rows_of(y, "y"), to = rows_of(out, "out");
  apply(shape, in, constants_of(constants, y), to, accumulate, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// (gradient of y, of gamma, of beta) from the gradient of act(scale * y + shift).
std::tuple<at::Tensor, at::Tensor, at::Tensor> gradient_op(const at::Tensor& grad_out, const at::Tensor& y, const at::Tensor& constants,
                                                           bool silu) {
  const c10::cuda::CUDAGuard guard(y.device());
  check_same(grad_out, y, "grad_out");
  const Shape shape = shape_of(y, silu);
  const Rows in = rows_of(y, "y"), grad = rows_of(grad_out, "grad_out");
  const at::Tensor scratch = floats(gradient_scratch(shape, multiprocessors()), y);
  at::Tensor grad_y = at::empty(y.sizes(), y.options().memory_format(at::MemoryFormat::ChannelsLast));
  at::Tensor grad_gamma = floats(shape.channels, y), grad_beta = floats(shape.channels, y);
  gradient(shape, in, grad, constants_of(constants, y), rows_of(grad_y, "grad_y"), grad_gamma.mutable_data_ptr<float>(),
           grad_beta.mutable_data_ptr<float>(), scratch.mutable_data_ptr<float>(), multiprocessors(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_y, grad_gamma, grad_beta};
}

}  // namespace

TORCH_LIBRARY(yolov12_kernels, library) {
  library.def(
      "batch_norm_statistics(Tensor y, Tensor gamma, Tensor beta, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
      "Tensor(c!)? batches, float momentum, float epsilon) -> Tensor");
  library.def("batch_norm_apply(Tensor y, Tensor constants, bool silu, Tensor(a!) out, bool accumulate) -> ()");
  library.def("batch_norm_gradient(Tensor grad_out, Tensor y, Tensor constants, bool silu) -> (Tensor, Tensor, Tensor)");
  library.def("is_rows(Tensor t) -> bool", &is_rows);
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) {
  library.impl("batch_norm_statistics", &statistics_op);
  library.impl("batch_norm_apply", &apply_op);
  library.impl("batch_norm_gradient", &gradient_op);
}

}  // namespace yolov12_kernels
