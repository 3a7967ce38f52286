// SPDX-License-Identifier: AGPL-3.0-or-later
// Whether two boxes overlap by more than a threshold, with the rounding of torchvision's kernels.
#pragma once

#include <cuda_runtime.h>

namespace yolov12_kernels {

struct Corners {
  float x1, y1, x2, y2;
};

// In the order of operations of torchvision's kernels, each rounded: `__fmul_rn` is never one with a sum.
__device__ inline float area_of(const Corners& box) { return __fmul_rn(box.x2 - box.x1, box.y2 - box.y1); }

__device__ inline bool overlap(const Corners& a, float a_area, const Corners& b, float b_area, float most) {
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f), height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float shared = __fmul_rn(width, height);
  // Nothing shared is no overlap above any threshold, and the most frequent case; a corner that is no number makes the quotient none.
  return shared > 0.0f && shared / (a_area + b_area - shared) > most;
}

}  // namespace yolov12_kernels
