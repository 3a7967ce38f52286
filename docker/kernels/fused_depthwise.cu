// SPDX-License-Identifier: AGPL-3.0-or-later
#include "fused_depthwise.h"

#include "finish.cuh"
#include "pipeline.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kThreads = 64;
constexpr int kMany = 4;  // pixels of a thread side by side, where there are enough of them: what is read serves up to a filter's side of them
constexpr int kThreadsOfMultiprocessor = 1024;  // below that, more threads help more than what they share

struct Problem {
  int pieces;  // of `kPixels` pixels in a row and 8 channels, in all
  int pieces_of_row;
  int groups;  // of 8 channels
  int height, width;
  Pixels x, residual, y;
  const void* taps;
  const void* bias;
  bool silu;
  bool early;
};

template <typename T, int kSide, int kPixels>
__global__ void __launch_bounds__(kThreads) fused_depthwise_kernel(const __grid_constant__ Problem of) {
  wait_for_kernels_before();
  let_next_kernel_begin();
  const int piece = blockIdx.x * kThreads + threadIdx.x;
  if (piece >= of.pieces) return;
  const int channel = piece % of.groups * kNumbersOfLoad, place = piece / of.groups;
  const int column = place % of.pieces_of_row * kPixels, line = place / of.pieces_of_row % of.height, image = place / of.pieces_of_row / of.height;
  const T* const taps = static_cast<const T*>(of.taps) + channel;
  const T* const x = static_cast<const T*>(of.x.data) + image * of.x.image + channel;
  const Vector<T> bias = *reinterpret_cast<const Vector<T>*>(static_cast<const T*>(of.bias) + channel);

  Vector<float> sums[kPixels][2] = {};
#pragma unroll
  for (int down = 0; down < kSide; ++down) {
    const int row = line + down - kSide / 2;
    if (row < 0 || row >= of.height) continue;
    Vector<T> read[kPixels + kSide - 1];
#pragma unroll
    for (int i = 0; i < kPixels + kSide - 1; ++i) {
      const int at = column + i - kSide / 2;
      read[i] = Vector<T>{};
      if (at >= 0 && at < of.width) read[i] = *reinterpret_cast<const Vector<T>*>(x + (static_cast<int64_t>(row) * of.width + at) * of.x.pixel);
    }
#pragma unroll
    for (int right = 0; right < kSide; ++right) {
      const Vector<T> tap = *reinterpret_cast<const Vector<T>*>(taps + (down * kSide + right) * of.groups * kNumbersOfLoad);
#pragma unroll
      for (int k = 0; k < kNumbersOfLoad; ++k) {
        const float weight = to_float(tap.values[k]);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) sums[i][k / 4].values[k % 4] += weight * to_float(read[i + right].values[k]);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    if (column + i >= of.width) break;
    const int64_t pixel = static_cast<int64_t>(line) * of.width + column + i;
    Vector<T> residual{};
    if (of.residual.data != nullptr) residual = *vector_at<T>(of.residual, image, pixel, channel);
    *vector_at<T>(of.y, image, pixel, channel) = finished<T>(sums[i], bias, of.silu, residual);
  }
}

template <typename T, int kSide, int kPixels>
void run(Problem of, int rows, cudaStream_t stream) {
  of.pieces_of_row = (of.width + kPixels - 1) / kPixels;
  of.pieces = rows * of.pieces_of_row * of.groups;
  launch(fused_depthwise_kernel<T, kSide, kPixels>, dim3((of.pieces + kThreads - 1) / kThreads), kThreads, 0, of.early, stream, of);
}

template <typename T, int kSide>
void run_side(const Problem& of, int images, int multiprocessors, cudaStream_t stream) {
  const int rows = images * of.height;
  const int64_t pieces = static_cast<int64_t>(rows) * ((of.width + kMany - 1) / kMany) * of.groups;
  if (pieces >= static_cast<int64_t>(multiprocessors) * kThreadsOfMultiprocessor) return run<T, kSide, kMany>(of, rows, stream);
  run<T, kSide, 1>(of, rows, stream);
}

template <typename T>
void run_type(const Problem& of, const FusedDepthwise& shape, int multiprocessors, cudaStream_t stream) {
  switch (shape.side) {
    case 3: return run_side<T, 3>(of, shape.images, multiprocessors, stream);
    case 5: return run_side<T, 5>(of, shape.images, multiprocessors, stream);
    case 7: return run_side<T, 7>(of, shape.images, multiprocessors, stream);
  }
}

}  // namespace

void fused_depthwise(const FusedDepthwise& shape, Pixels x, const void* taps, const void* bias, Pixels residual, Pixels y, bool early,
                     int multiprocessors, cudaStream_t stream) {
  const Problem of{0,          0, shape.channels / kNumbersOfLoad, shape.height, shape.width, x, residual, y, taps, bias,
                   shape.activation == Activation::kSiLU, early};
  if (shape.type == Type::kHalf) return run_type<__half>(of, shape, multiprocessors, stream);
  run_type<__nv_bfloat16>(of, shape, multiprocessors, stream);
}

}  // namespace yolov12_kernels
