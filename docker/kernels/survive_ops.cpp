// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `survive.h`. Everything that the kernel takes for granted is checked here.
#include "survive.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <climits>
#include <tuple>

namespace yolov12_kernels {
namespace {

std::tuple<at::Tensor, at::Tensor> survive_op(const at::Tensor& boxes, const at::Tensor& order, const at::Tensor& lengths, double iou,
                                              int64_t limit) {
  const c10::cuda::CUDAGuard guard(boxes.device());
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.is_contiguous() && boxes.scalar_type() == at::kFloat,
              "yolov12_kernels: boxes must be contiguous (n, 4) float32, and are ", boxes.sizes(), " ", boxes.scalar_type());
  TORCH_CHECK(order.dim() == 2 && order.is_contiguous() && order.scalar_type() == at::kLong && order.device() == boxes.device() &&
                  order.size(1) <= INT_MAX - 1024 && order.size(0) <= INT_MAX,
              "yolov12_kernels: their order must be contiguous (images, most) int64 on ", boxes.device(), ", and is ", order.sizes(), " ",
              order.scalar_type());
  TORCH_CHECK(lengths.dim() == 1 && lengths.size(0) == order.size(0) && lengths.is_contiguous() && lengths.scalar_type() == at::kInt &&
                  lengths.device() == boxes.device(),
              "yolov12_kernels: lengths must be contiguous (", order.size(0), ") int32 on ", boxes.device(), ", and are ", lengths.sizes(), " ",
              lengths.scalar_type());
  TORCH_CHECK(limit >= 0 && limit <= kMostStanding, "yolov12_kernels: from 0 to ", kMostStanding, " boxes may stand, not ", limit);
  at::Tensor kept = at::empty({order.size(0), limit}, order.options()), counts = at::empty({order.size(0)}, lengths.options());
  if (order.size(0) > 0) {
    const Ranked ranked{boxes.const_data_ptr<float>(), order.const_data_ptr<int64_t>(), lengths.const_data_ptr<int>(),
                        static_cast<int>(order.size(0)), static_cast<int>(order.size(1))};
    survive(ranked, static_cast<float>(iou), static_cast<int>(limit), kept.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int>(),
            c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {kept, counts};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("survive(Tensor boxes, Tensor order, Tensor lengths, float iou, int limit) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("survive", &survive_op); }

}  // namespace yolov12_kernels
