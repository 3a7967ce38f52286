// SPDX-License-Identifier: AGPL-3.0-or-later
// The torch op of `decode.h`. Everything that the kernel takes for granted is checked here.
#include "decode.h"

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

constexpr int kMostImages = 65535;  // blocks in a grid's second dimension, of any GPU

// Whether `t` is contiguous rows of half precision, of loads.
bool is_rows_of_loads(const at::Tensor& t) {
  return t.dim() == 3 && t.numel() > 0 && t.is_contiguous() && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16) &&
         t.size(2) % kNumbersOfLoad == 0 && is_at_load(t);
}

// `sizes` are height and width of each level.
at::Tensor decode_op(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& strides, at::IntArrayRef sizes, int64_t classes,
                     bool has_centres, bool early) {
  const c10::cuda::CUDAGuard guard(boxes.device());
  TORCH_CHECK(is_rows_of_loads(boxes) && is_rows_of_loads(scores) && boxes.size(2) == 4 * kBins && scores.size(0) == boxes.size(0) &&
                  scores.size(1) == boxes.size(1) && scores.scalar_type() == boxes.scalar_type() && scores.device() == boxes.device(),
              "yolov12_kernels: boxes must be (images, anchors, 64) and scores (images, anchors, a multiple of 8), contiguous, float16 or bfloat16, "
              "and are ", boxes.sizes(), " and ", scores.sizes(), ", ", boxes.scalar_type(), " and ", scores.scalar_type());
  TORCH_CHECK(classes > 0 && classes <= scores.size(2), "yolov12_kernels: ", scores.size(2), " scores of an anchor hold no ", classes, " classes");
  const int64_t count = static_cast<int64_t>(sizes.size()) / 2;
  TORCH_CHECK(sizes.size() % 2 == 0 && count > 0 && count <= kMostLevels && boxes.size(0) <= kMostImages && boxes.size(1) <= INT_MAX,
              "yolov12_kernels: 1 to ", kMostLevels, " levels of height and width, and ", kMostImages, " images at most");
  TORCH_CHECK(strides.scalar_type() == at::kFloat && strides.is_contiguous() && strides.numel() == count && strides.device() == boxes.device(),
              "yolov12_kernels: strides must be a contiguous float32 for each level");
  Levels levels{static_cast<int>(count), {}, {}};
  int64_t anchors = 0;
  for (int64_t i = 0; i < count; ++i) {
    levels.begins[i] = static_cast<int>(anchors);
    levels.widths[i] = static_cast<int>(sizes[2 * i + 1]);
    TORCH_CHECK(sizes[2 * i] > 0 && sizes[2 * i + 1] > 0, "yolov12_kernels: a level of ", sizes[2 * i], " x ", sizes[2 * i + 1]);
    anchors += sizes[2 * i] * sizes[2 * i + 1];
  }
  TORCH_CHECK(anchors == boxes.size(1), "yolov12_kernels: the levels have ", anchors, " anchors, and there are ", boxes.size(1));
  at::Tensor y = at::empty({boxes.size(0), 4 + classes, anchors}, boxes.options());
  const Decoded shape{static_cast<int>(boxes.size(0)), static_cast<int>(anchors), static_cast<int>(classes), static_cast<int>(scores.size(2)),
                      type_of(boxes), has_centres};
  decode(shape, levels, boxes.const_data_ptr(), scores.const_data_ptr(), strides.const_data_ptr<float>(), y.mutable_data_ptr(),
         early && begins_early(), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(yolov12_kernels, library) {
  library.def("decode(Tensor boxes, Tensor scores, Tensor strides, int[] sizes, int classes, bool has_centres, bool early=False) -> Tensor");
}

TORCH_LIBRARY_IMPL(yolov12_kernels, CUDA, library) { library.impl("decode", &decode_op); }

}  // namespace yolov12_kernels
