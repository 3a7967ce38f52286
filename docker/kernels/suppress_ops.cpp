// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `suppress.h`. Everything that the kernels take for granted is checked here.
#include "suppress.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <climits>
#include <optional>

#include "tensors.h"

namespace yolov12_kernels {
namespace {

constexpr int kMostImages = 65535;  // blocks in a grid's second dimension, of any GPU
constexpr int kBoxNumbers = 4;

// `numbers`: none, or padding, gain and limit, each of x and y. A gain is divided by as torch does it on a GPU: times one over it, in float32.
Placing placing_of(at::ArrayRef<double> numbers) {
  TORCH_CHECK(numbers.empty() || numbers.size() == 6, "yolov12_kernels: placing is no number, or padding, gain and limit of x and y, and has ",
              numbers.size());
  Placing placing{!numbers.empty(), {}, {}, {}};
  for (int i = 0; placing.is_asked && i < 2; ++i) {
    placing.padding[i] = static_cast<float>(numbers[i]);
    placing.inverse_gain[i] = 1.0f / static_cast<float>(numbers[2 + i]);
    placing.limit[i] = static_cast<float>(numbers[4 + i]);
  }
  return placing;
}

at::Tensor suppress_op(const at::Tensor& prediction, double confidence, double iou, int64_t max_det, bool agnostic,
                       const std::optional<at::Tensor>& wanted, at::ArrayRef<double> placing) {
  const c10::cuda::CUDAGuard guard(prediction.device());
  TORCH_CHECK(prediction.dim() == 3 && prediction.numel() > 0 && prediction.is_contiguous() && is_supported(prediction.scalar_type()) &&
                  prediction.size(1) > kBoxNumbers && prediction.size(0) <= kMostImages && prediction.size(2) <= INT_MAX,
              "yolov12_kernels: predictions must be contiguous (images, 4 + classes, anchors), of ", kMostImages,
              " images at most, float32, float16 or bfloat16, and are ", prediction.sizes(), " ", prediction.scalar_type());
  TORCH_CHECK(max_det >= 0, "yolov12_kernels: at most ", max_det, " detections");
  TORCH_CHECK(!wanted || (wanted->dim() == 1 && wanted->is_contiguous() && wanted->scalar_type() == at::kFloat &&
                          wanted->device() == prediction.device()),
              "yolov12_kernels: the wanted classes must be contiguous float32 on ", prediction.device());
  const int64_t images = prediction.size(0), anchors = prediction.size(2);
  const auto most = static_cast<int>(std::min({max_det, anchors, static_cast<int64_t>(kRoom)}));
  const auto ints = prediction.options().dtype(at::kInt);
  at::Tensor keys = at::empty({images, kRoom}, prediction.options().dtype(at::kLong));
  at::Tensor labels = at::empty({images, anchors}, ints), found = at::zeros({images}, ints);
  at::Tensor y = at::empty({images, most + 1, kColumns}, prediction.options().dtype(at::kFloat));
  const Predicted predicted{prediction.const_data_ptr(), static_cast<int>(images), static_cast<int>(anchors),
                            static_cast<int>(prediction.size(1) - kBoxNumbers), type_of(prediction)};
  const Rules rules{static_cast<float>(confidence), static_cast<float>(iou), agnostic, wanted ? wanted->const_data_ptr<float>() : nullptr,
                    wanted ? static_cast<int>(wanted->numel()) : -1};
  const Candidates candidates{reinterpret_cast<unsigned long long*>(keys.mutable_data_ptr<int64_t>()), labels.mutable_data_ptr<int>(),
                              found.mutable_data_ptr<int>()};
  suppress(predicted, rules, placing_of(placing), candidates, most, y.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def(
      "suppress(Tensor prediction, float confidence, float iou, int max_det, bool agnostic, Tensor? wanted, float[] placing) -> Tensor");
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("suppress", &suppress_op); }

}  // namespace yolov12_kernels
