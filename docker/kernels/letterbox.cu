// SPDX-License-Identifier: AGPL-3.0-or-later
#include "letterbox.h"

#include <cmath>
#include <type_traits>

#include "blocks.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kLanes = 32;  // of a block, side by side
constexpr int kLines = 8;   // of a block, one below the other
constexpr int kRows = 2;    // pixels of a thread
constexpr int kTall = kLines * kRows;
constexpr int kThreads = kLanes * kLines;
static_assert(kThreads == kGreys, "each thread fetches one of the numbers that the levels become");
static_assert(kLanes + kTall <= kThreads, "each thread computes one place at most");

constexpr uint32_t kBorder = 114;    // the level that ultralytics pads with
constexpr float kWeightOne = 2048;   // 1 in fixed point
constexpr int kCutOfRow = 4, kCutOfProduct = 16, kLastBits = 2;

// The two neighbours of an output pixel in one direction, and their weights.
struct Taps {
  int first, second;
  int first_weight, second_weight;
};

__device__ inline int kept_inside(int place, int size) { return place < 0 ? 0 : place < size ? place : size - 1; }

// Of an output pixel's place. `scale` is how many pixels of the frame go to one of the output's. Compiled without fused multiply-adds, as OpenCV is
// on x86-64. In a row OpenCV gives a neighbour that is not there no weight; here it has the pixel at the border twice, which is the same sum.
__device__ inline Taps taps_of(int place, double scale, int size) {
  const float at = static_cast<float>((place + 0.5) * scale - 0.5);
  const float whole = floorf(at), beyond = at - whole;
  const int first = static_cast<int>(whole);
  return {kept_inside(first, size), kept_inside(first + 1, size), static_cast<int>(rintf((1.0f - beyond) * kWeightOne)),
          static_cast<int>(rintf(beyond * kWeightOne))};
}

// Blue, green and red of an output pixel, from the two rows that it lies between.
__device__ inline void resized(uint32_t (&pixel)[kColours], const uint8_t* upper, const uint8_t* lower, const Taps& column, const Taps& row) {
  const int first = column.first * kColours, second = column.second * kColours;
#pragma unroll
  for (int i = 0; i < kColours; ++i) {
    const int above = column.first_weight * upper[first + i] + column.second_weight * upper[second + i];
    const int below = column.first_weight * lower[first + i] + column.second_weight * lower[second + i];
    const int upper_part = row.first_weight * (above >> kCutOfRow) >> kCutOfProduct;
    const int lower_part = row.second_weight * (below >> kCutOfRow) >> kCutOfProduct;
    pixel[i] = (upper_part + lower_part + (1 << (kLastBits - 1))) >> kLastBits;
  }
}

// What it moves: the frame, and the output once. A thread fetches a pixel's twelve bytes one by one, since pixels begin at any; a warp's lie side by side
// in two rows, so that they come from L1. Places are computed in double, as OpenCV does, which some GPUs are slow at: by a block once for each of its
// columns and rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    letterbox_kernel(const Letterbox of, double scale_x, double scale_y, const uint8_t* __restrict__ frames, const T* __restrict__ levels,
                     T* __restrict__ out) {
  __shared__ T numbers[kGreys];
  __shared__ Taps columns[kLanes], rows[kTall];
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  const int left = blockIdx.x * kLanes, top = blockIdx.y * kTall;  // of the block
  numbers[thread] = levels[thread];
  if (thread < kLanes)
    columns[thread] = taps_of(left + thread - of.left, scale_x, of.width);
  else if (thread < kLanes + kTall)
    rows[thread - kLanes] = taps_of(top + thread - kLanes - of.top, scale_y, of.height);
  __syncthreads();

  const int x = left + threadIdx.x;
  if (x >= of.out_width) return;
  const bool is_beside = x < of.left || x >= of.left + of.resized_width;
  const uint8_t* const frame = frames + static_cast<int64_t>(blockIdx.z) * kColours * of.height * of.width;
  T* const image = out + blockIdx.z * of.image_stride;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int line = threadIdx.y + i * kLines, y = top + line;
    if (y >= of.out_height) return;
    uint32_t pixel[kColours] = {kBorder, kBorder, kBorder};
    if (!is_beside && y >= of.top && y < of.top + of.resized_height) {
      const Taps& row = rows[line];
      resized(pixel, frame + row.first * of.width * kColours, frame + row.second * of.width * kColours, columns[threadIdx.x], row);
    }
    T* const to = image + y * of.row_stride + x * of.column_stride;
#pragma unroll
    for (int colour = 0; colour < kColours; ++colour) to[colour * of.colour_stride] = numbers[pixel[kColours - 1 - colour]];
  }
}

// How many pixels of the frame go to one of the output's, by the two divisions that OpenCV makes of it.
double scale_of(int from, int to) { return 1.0 / (static_cast<double>(to) / from); }

}  // namespace

void letterbox(const Letterbox& of, const uint8_t* frames, const void* levels, void* out, cudaStream_t stream) {
  const double scale_x = scale_of(of.width, of.resized_width), scale_y = scale_of(of.height, of.resized_height);
  const dim3 threads(kLanes, kLines), blocks(blocks_for(of.out_width, kLanes), blocks_for(of.out_height, kTall), of.images);
  with_type(of.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    letterbox_kernel<T><<<blocks, threads, 0, stream>>>(of, scale_x, scale_y, frames, static_cast<const T*>(levels), static_cast<T*>(out));
  });
}

}  // namespace yolov12_kernels
