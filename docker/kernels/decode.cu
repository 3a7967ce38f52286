// SPDX-License-Identifier: AGPL-3.0-or-later
#include "decode.h"

#include <cmath>
#include <type_traits>

#include "numbers.cuh"
#include "pipeline.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kAnchors = 64;   // of a block
constexpr int kThreads = 256;  // one for each side of its boxes
constexpr int kClasses = 64;   // that are turned round at once

// The mean of the bins' numbers 0 to 15, weighted by the softmax of their logits.
template <typename T>
__device__ float mean_bin(const T* logits) {
  float values[kBins];
  float largest = -INFINITY;
#pragma unroll
  for (int half = 0; half < kBins / kNumbersOfLoad; ++half) {
    const Vector<T> loaded = reinterpret_cast<const Vector<T>*>(logits)[half];
#pragma unroll
    for (int i = 0; i < kNumbersOfLoad; ++i) {
      const float value = to_float(loaded.values[i]);
      values[half * kNumbersOfLoad + i] = value;
      largest = fmaxf(largest, value);
    }
  }
  float sum = 0.0f, weighted = 0.0f;
#pragma unroll
  for (int i = 0; i < kBins; ++i) {
    const float weight = __expf(values[i] - largest);
    sum += weight;
    weighted += weight * i;
  }
  return weighted / sum;
}

// The box of an anchor from the distances of its sides, in pixels.
__device__ inline void box_of(float (&box)[4], const float (&sides)[4], const Levels& levels, const float* strides, int anchor, bool has_centres) {
  int level = 0;
  while (level + 1 < levels.count && anchor >= levels.begins[level + 1]) ++level;
  const int place = anchor - levels.begins[level], width = levels.widths[level];
  const float x = place % width + 0.5f, y = place / width + 0.5f, stride = strides[level];
  const float left = x - sides[0], top = y - sides[1], right = x + sides[2], bottom = y + sides[3];
  box[0] = (has_centres ? (left + right) / 2 : left) * stride;
  box[1] = (has_centres ? (top + bottom) / 2 : top) * stride;
  box[2] = (has_centres ? right - left : right) * stride;
  box[3] = (has_centres ? bottom - top : bottom) * stride;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) decode_kernel(const Decoded of, const Levels levels, const T* boxes, const T* scores,
                                                          const float* strides, T* y) {
  __shared__ float sides[kAnchors][4];
  __shared__ T turned[kClasses][kAnchors + 2];  // in rows of an odd number of words, so that a column lies in different banks
  wait_for_kernels_before();
  let_next_kernel_begin();
  const int first = blockIdx.x * kAnchors;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * of.anchors + first;  // of the first anchor, of this image
  const int here = of.anchors - first < kAnchors ? of.anchors - first : kAnchors;
  T* const image = y + static_cast<int64_t>(blockIdx.y) * (4 + of.classes) * of.anchors + first;

  const int mine = threadIdx.x / 4;
  if (mine < here) sides[mine][threadIdx.x % 4] = mean_bin(boxes + (row + mine) * 4 * kBins + threadIdx.x % 4 * kBins);
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < here) {
    float box[4];
    box_of(box, sides[threadIdx.x], levels, strides, first + threadIdx.x, of.has_centres);
#pragma unroll
    for (int i = 0; i < 4; ++i) image[static_cast<int64_t>(i) * of.anchors + threadIdx.x] = from_float<T>(box[i]);
  }

  for (int begin = 0; begin < of.classes; begin += kClasses) {
    for (int i = threadIdx.x; i < kAnchors * kClasses / kNumbersOfLoad; i += kThreads) {
      const int anchor = i / (kClasses / kNumbersOfLoad), group = i % (kClasses / kNumbersOfLoad) * kNumbersOfLoad;
      if (anchor >= here || begin + group >= of.score_width) continue;
      const Vector<T> loaded = *reinterpret_cast<const Vector<T>*>(scores + (row + anchor) * of.score_width + begin + group);
#pragma unroll
      for (int k = 0; k < kNumbersOfLoad; ++k) turned[group + k][anchor] = from_float<T>(1.0f / (1.0f + __expf(-to_float(loaded.values[k]))));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kAnchors * kClasses; i += kThreads) {
      const int which = i / kAnchors, anchor = i % kAnchors;
      if (anchor < here && begin + which < of.classes) image[static_cast<int64_t>(4 + begin + which) * of.anchors + anchor] = turned[which][anchor];
    }
    __syncthreads();
  }
}

}  // namespace

void decode(const Decoded& shape, const Levels& levels, const void* boxes, const void* scores, const float* strides, void* y, bool early,
            cudaStream_t stream) {
  const dim3 blocks((shape.anchors + kAnchors - 1) / kAnchors, shape.images);
  with_type(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if constexpr (sizeof(T) == 2) {
      launch(decode_kernel<T>, blocks, kThreads, 0, early, stream, shape, levels, static_cast<const T*>(boxes), static_cast<const T*>(scores),
             strides, static_cast<T*>(y));
    }
  });
}

}  // namespace yolov12_kernels
