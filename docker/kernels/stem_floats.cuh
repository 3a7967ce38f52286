// SPDX-License-Identifier: AGPL-3.0-or-later
// The stem by ordinary multiply-adds, for float32, which tensor cores would round. A thread has four channels, four threads a group of channels.
#pragma once

#include "numbers.cuh"
#include "stem.h"

namespace yolov12_kernels {

constexpr int kFloats = 4;                          // channels of a thread
constexpr int kFloatLanes = kStemGroup / kFloats;   // threads of a group of channels
constexpr int kFloatPixels = 4;                     // side by side in y, of a thread: they meet nine columns of x
constexpr int kFloatColumns = 2 * kFloatPixels + 1;
constexpr int kFloatThreads = 128;
constexpr int kFloatBlocks = 4, kFloatSumBlocks = 2;  // which fit onto a multiprocessor, by their registers
constexpr int kFloatWalkers = 16;  // of a block for the gradient, each with a thread for every input and four channels

// What a thread's pixels meet of a row of x, from column `first` on; zero beyond it, and everywhere if it is beyond the image. `kAdjacent`: the
// numbers of a row lie side by side.
template <bool kAdjacent>
__device__ void load_columns(float (&values)[kFloatColumns], const float* x, const Strides& strides, const Stem& shape, int row, int first) {
  const int step = kAdjacent ? 1 : static_cast<int>(strides.column);
  const float* const from = x + row * strides.row + static_cast<int64_t>(first) * step;
  const bool is_row = row >= 0 && row < shape.height;
  if (is_row && first >= 0 && first + kFloatColumns <= shape.width) {  // nearly all of them
#pragma unroll
    for (int i = 0; i < kFloatColumns; ++i) values[i] = from[i * step];
    return;
  }
#pragma unroll
  for (int i = 0; i < kFloatColumns; ++i) {
    const int column = first + i;
    values[i] = is_row && column >= 0 && column < shape.width ? from[i * step] : 0.0f;
  }
}

template <bool kAdjacent>
__global__ void __launch_bounds__(kFloatThreads, kFloatBlocks)
    stem_floats_kernel(const float* __restrict__ x, Strides strides, const float* __restrict__ weight, Strides weight_strides,
                       const float* __restrict__ bias, float* __restrict__ y, Stem shape) {
  __shared__ Vector<float> taps[kStemTaps][kFloatLanes];
  const int first_channel = blockIdx.y * kStemGroup, lane = threadIdx.x % kFloatLanes;
  for (int i = threadIdx.x; i < kStemTaps * kStemGroup; i += kFloatThreads) {
    const int tap = i / kStemGroup, channel = i % kStemGroup, row = tap / kStemSide;
    taps[tap][channel / kFloats].values[channel % kFloats] =
        weight[(first_channel + channel) * weight_strides.image + row / kStemSide * weight_strides.channel +
               row % kStemSide * weight_strides.row + tap % kStemSide * weight_strides.column];
  }
  __syncthreads();
  const int height = (shape.height + 1) / 2, width = (shape.width + 1) / 2, channel = first_channel + kFloats * lane;
  float shift[kFloats];
#pragma unroll
  for (int c = 0; c < kFloats; ++c) shift[c] = bias == nullptr ? 0.0f : bias[channel + c];
  const int tiles_in_row = (width + kFloatPixels - 1) / kFloatPixels, tiles = shape.images * height * tiles_in_row;
  constexpr int kEach = kFloatThreads / kFloatLanes;
  for (int tile = blockIdx.x * kEach + threadIdx.x / kFloatLanes; tile < tiles; tile += gridDim.x * kEach) {
    const int line = tile / tiles_in_row, column = (tile - line * tiles_in_row) * kFloatPixels, row = line % height;
    float sums[kFloatPixels][kFloats];
#pragma unroll
    for (int p = 0; p < kFloatPixels; ++p)
#pragma unroll
      for (int c = 0; c < kFloats; ++c) sums[p][c] = shift[c];
#pragma unroll 1
    for (int input = 0; input < kStemInputs; ++input) {
      const float* const plane = x + line / height * strides.image + input * strides.channel;
#pragma unroll
      for (int r = 0; r < kStemSide; ++r) {
        float values[kFloatColumns];
        load_columns<kAdjacent>(values, plane, strides, shape, 2 * row - 1 + r, 2 * column - 1);
#pragma unroll
        for (int s = 0; s < kStemSide; ++s) {
          const Vector<float> tap = taps[(input * kStemSide + r) * kStemSide + s][lane];
#pragma unroll
          for (int p = 0; p < kFloatPixels; ++p)
#pragma unroll
            for (int c = 0; c < kFloats; ++c) sums[p][c] += values[2 * p + s] * tap.values[c];
        }
      }
    }
    float* const to = y + (static_cast<int64_t>(line) * width + column) * shape.channels + channel;
#pragma unroll
    for (int p = 0; p < kFloatPixels; ++p) {
      if (column + p >= width) break;
      Vector<float> made;
#pragma unroll
      for (int c = 0; c < kFloats; ++c) made.values[c] = sums[p][c];
      *reinterpret_cast<Vector<float>*>(to + p * shape.channels) = made;
    }
  }
}

// Walkers go along rows of y. In a block lie side by side four threads for the channels, then the three inputs, then the walkers.
template <bool kAdjacent>
__global__ void __launch_bounds__(kFloatLanes* kStemInputs* kFloatWalkers, kFloatSumBlocks)
    sum_stem_floats(const float* __restrict__ x, Strides strides, const float* __restrict__ grad_y, int64_t grad_stride, Stem shape,
                    float* partials) {
  constexpr int kTaps = kStemSide * kStemSide;  // of one input
  const int channel = kFloats * threadIdx.x, input = threadIdx.y, walker = threadIdx.z;  // the channel among those of the block
  const int height = (shape.height + 1) / 2, width = (shape.width + 1) / 2, lines = shape.images * height;
  float sums[kTaps][kFloats] = {};
  for (int line = blockIdx.x * kFloatWalkers + walker; line < lines; line += gridDim.x * kFloatWalkers) {
    const float* const plane = x + line / height * strides.image + input * strides.channel;
    const float* const grad_row = grad_y + static_cast<int64_t>(line) * width * grad_stride + blockIdx.y * kStemGroup + channel;
#pragma unroll 1
    for (int column = 0; column < width; column += kFloatPixels) {
      Vector<float> grads[kFloatPixels];
#pragma unroll
      for (int p = 0; p < kFloatPixels; ++p)
        grads[p] = column + p < width ? *reinterpret_cast<const Vector<float>*>(grad_row + (column + p) * grad_stride) : Vector<float>{};
#pragma unroll
      for (int r = 0; r < kStemSide; ++r) {
        float values[kFloatColumns];
        load_columns<kAdjacent>(values, plane, strides, shape, 2 * (line % height) - 1 + r, 2 * column - 1);
#pragma unroll
        for (int s = 0; s < kStemSide; ++s)
#pragma unroll
          for (int p = 0; p < kFloatPixels; ++p)
#pragma unroll
            for (int c = 0; c < kFloats; ++c) sums[r * kStemSide + s][c] += values[2 * p + s] * grads[p].values[c];
      }
    }
  }
  // The walkers add theirs one after the other.
  __shared__ float block_sums[kStemTaps][kStemGroup];
  for (int turn = 0; turn < kFloatWalkers; ++turn) {
    if (turn == walker) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap)
#pragma unroll
        for (int c = 0; c < kFloats; ++c) {
          float& sum = block_sums[input * kTaps + tap][channel + c];
          sum = turn == 0 ? sums[tap][c] : sum + sums[tap][c];
        }
    }
    __syncthreads();
  }
  float* const to = partials + static_cast<int64_t>(blockIdx.x) * kStemTaps * shape.channels + blockIdx.y * kStemGroup;
  const int thread = (walker * kStemInputs + input) * kFloatLanes + threadIdx.x;
  for (int i = thread; i < kStemTaps * kStemGroup; i += kFloatLanes * kStemInputs * kFloatWalkers)
    to[i / kStemGroup * shape.channels + i % kStemGroup] = block_sums[i / kStemGroup][i % kStemGroup];
}

}  // namespace yolov12_kernels
