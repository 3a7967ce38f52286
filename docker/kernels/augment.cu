// SPDX-License-Identifier: AGPL-3.0-or-later
#include "augment.h"

#include "blocks.h"

namespace yolov12_kernels {
namespace {

constexpr int kLanes = 32;              // of a block, side by side
constexpr int kLines = 8;               // of a block, one below the other
constexpr int kRows = 4;                // pixels of a thread, one below the other
constexpr int kColourThreads = kLevels;  // one for each entry of a table
constexpr int kColourRounds = 4;         // of a thread, kColourPixels each: what a block's tables serve

__device__ const Divisions kDivisions = divisions();

// What it moves: three bytes written for each output pixel, and the pictures, of which an output pixel needs about three bytes at a scale of 1.
// A warp's pixels are neighbours in a row: what they read lies side by side in two rows of a picture (or slanted, where it is turned), and what
// they write is 32 bytes of each channel, which is what memory takes at a time. The block's rows lie below each other, so that the lower row
// of one is found in L1 as the upper row of the next. A picture's pixels begin at any byte, where no load of 16 could.
template <bool kProjective>
__global__ void __launch_bounds__(kLanes * kLines)
    warp_kernel(const Layer* __restrict__ layers, int size, uint8_t* __restrict__ rendered) {
  const int column = blockIdx.x * kLanes + threadIdx.x, first = (blockIdx.y * kLines + threadIdx.y) * kRows;
  if (column >= size) return;
  const int64_t bytes_of_layer = static_cast<int64_t>(kChannels) * size * size;
  warp_column<kProjective>(layers[blockIdx.z], size, column, first, smaller(first + kRows, size), rendered + blockIdx.z * bytes_of_layer);
}

// A block for each image, a thread for each level.
__global__ void __launch_bounds__(kColourThreads) levels_kernel(const double* __restrict__ gains, uint8_t* __restrict__ levels) {
  const int level = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChannels;
  for (int c = 0; c < kChannels; ++c) levels[(first + c) * kLevels + level] = new_level(c, level, gains[first + c]);
}

// What it moves: three bytes read and three written for each pixel, 16 at a time. The tables, in which each pixel looks up four entries of its
// own, are made in shared memory: there, what the threads of a warp ask for at once costs by banks, and from L1 by lines.
__global__ void __launch_bounds__(kColourThreads)
    recolour_kernel(const uint8_t* __restrict__ images, const uint8_t* __restrict__ levels, int area, bool is_aligned,
                    uint8_t* __restrict__ coloured) {
  __shared__ ColourTables tables;
  fill_tables(tables, threadIdx.x, kDivisions, levels + static_cast<int64_t>(blockIdx.y) * kChannels * kLevels);
  __syncthreads();
  const int64_t image = static_cast<int64_t>(blockIdx.y) * kChannels * area;
  const int step = kColourThreads * kColourPixels, begin = blockIdx.x * step * kColourRounds + threadIdx.x * kColourPixels;
  for (int round = 0; round < kColourRounds; ++round) {
    const int first = begin + round * step;
    if (first >= area) return;
    recolour_pixels(tables, images + image, area, first, is_aligned, coloured + image);
  }
}

bool is_aligned(const uint8_t* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(Pixels) == 0; }

}  // namespace

void warp(const Layer* layers, int count, int size, bool is_projective, uint8_t* rendered, cudaStream_t stream) {
  const dim3 threads(kLanes, kLines), blocks(blocks_for(size, kLanes), blocks_for(size, kLines * kRows), count);
  const auto kernel = is_projective ? warp_kernel<true> : warp_kernel<false>;
  kernel<<<blocks, threads, 0, stream>>>(layers, size, rendered);
}

void recolour(const uint8_t* images, const double* gains, int count, int area, uint8_t* levels, uint8_t* coloured, cudaStream_t stream) {
  const dim3 blocks(blocks_for(area, kColourThreads * kColourPixels * kColourRounds), count);
  const bool all_aligned = area % kColourPixels == 0 && is_aligned(images) && is_aligned(coloured);
  levels_kernel<<<count, kColourThreads, 0, stream>>>(gains, levels);
  recolour_kernel<<<blocks, kColourThreads, 0, stream>>>(images, levels, area, all_aligned, coloured);
}

}  // namespace yolov12_kernels
