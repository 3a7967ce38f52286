// SPDX-License-Identifier: AGPL-3.0-or-later
// Two sums for each channel, as statistics and gradients of batch norm need them: over the lines of a block, then over the blocks. In a fixed order.
#pragma once

#include "batch_norm_passes.cuh"
#include "blocks.h"

namespace yolov12_kernels {

constexpr int kFinishChannels = 32, kFinishParts = 32;

// Adds up the lines of a block: each thread brings two sums for each of its channels, the block writes one of each.
template <int kSize>
__device__ void write_block_sums(const float (&first)[kSize], const float (&second)[kSize], const Share& share, const Part& part,
                                 float* partials) {
  __shared__ float shared[kThreads * 2 * kSize];
  const int half = share.columns * kSize, sums = 2 * half;
  if (part.line < share.lines) {
    float* const mine = shared + part.line * sums + part.column * kSize;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      mine[i] = first[i];
      mine[half + i] = second[i];
    }
  }
  __syncthreads();
  // Where there are more threads than sums, several add up some of the lines each; then one adds up theirs.
  int lines = share.lines;
  if (kThreads >= 2 * sums) {
    const int helpers = kThreads / sums, at = threadIdx.x % sums, helper = threadIdx.x / sums;
    if (helper < helpers) {
      float sum = 0.0f;
#pragma unroll 4
      for (int line = helper; line < share.lines; line += helpers) sum += shared[line * sums + at];
      shared[helper * sums + at] = sum;  // which nobody else reads before
    }
    __syncthreads();
    lines = helpers;
  }
  const int first_channel = part.channel - part.column * kSize;
  for (int i = threadIdx.x; i < sums; i += kThreads) {
    float sum = 0.0f;
#pragma unroll 4
    for (int line = 0; line < lines; ++line) sum += shared[line * sums + i];
    const bool is_second = i >= half;
    const int channel = first_channel + i - (is_second ? half : 0);
    if (channel < share.channels) partials[(2 * static_cast<int64_t>(part.block) + is_second) * share.channels + channel] = sum;
  }
}

// Two sums over the blocks for each channel. A warp of threads reads neighbouring channels of some of the blocks. True for the thread that goes on
// with them.
__device__ inline bool sum_over_blocks(const float* partials, int blocks, int channels, int channel, double* first, double* second) {
  __shared__ double shared[2][kFinishParts][kFinishChannels];
  double a = 0.0, b = 0.0;
  if (channel < channels) {
#pragma unroll 8
    for (int block = threadIdx.y; block < blocks; block += kFinishParts) {
      const float* const of_block = partials + 2 * static_cast<int64_t>(block) * channels + channel;
      a += of_block[0];
      b += of_block[channels];
    }
  }
  shared[0][threadIdx.y][threadIdx.x] = a;
  shared[1][threadIdx.y][threadIdx.x] = b;
#pragma unroll
  for (int parts = kFinishParts / 2; parts > 0; parts /= 2) {
    __syncthreads();
    if (threadIdx.y < 2 * parts) {
      double(*const half)[kFinishChannels] = shared[threadIdx.y / parts];
      const int at = threadIdx.y % parts;
      half[at][threadIdx.x] += half[at + parts][threadIdx.x];
    }
  }
  __syncthreads();
  *first = shared[0][0][threadIdx.x];
  *second = shared[1][0][threadIdx.x];
  return threadIdx.y == 0 && channel < channels;
}

// Blocks and threads of the kernels that finish sums.
inline int finish_blocks(int channels) { return blocks_for(channels, kFinishChannels); }
inline dim3 finish_threads() { return dim3(kFinishChannels, kFinishParts); }

// Floats of scratch memory that the blocks' sums take.
inline int64_t partial_sums(const Share& share) { return 2 * static_cast<int64_t>(share.blocks) * share.channels; }

}  // namespace yolov12_kernels
