// SPDX-License-Identifier: AGPL-3.0-or-later
// The stem by tensor cores, for float16 and bfloat16. x is read as pairs of neighbouring columns, the first of them even, into the registers that
// hold them while they are multiplied: no copy of x with its taps side by side is made anywhere.
//
// An output pixel at column i takes the columns 2 i - 1, 2 i and 2 i + 1 of nine rows of x: three of each channel. The last two columns are a pair of
// x as it lies. The first one is the second half of the pair before, which is that of the pixel before: of two rows they make one more pair.
//
// Threads of a warp are counted as tensor cores do (tensor_cores.cuh): thread 4 g + t is number t of group g.
#pragma once

#include <cstring>

#include "numbers.cuh"
#include "stem.h"
#include "tensor_cores.cuh"

namespace yolov12_kernels {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kPixels = 4;  // of y, side by side, of one thread: four pairs of x, which are 16 bytes
constexpr int kForwardTile = kWarp / 4 * kPixels, kGradientTile = 4 * kPixels;  // pixels of y, side by side, that a warp makes, or reads, at once
constexpr int kHalfThreads = 128;
constexpr unsigned kBothFirst = 0x5410, kBothSecond = 0x7632;  // for __byte_perm: of two pairs the first numbers, or the second ones
constexpr int kNoTap = -1, kBiasTap = kStemTaps;

// How many blocks fit onto a multiprocessor, by their registers, with so many groups of channels.
constexpr int stem_blocks_at_once(int groups) { return groups == 1 ? 7 : groups <= 4 ? 5 : 4; }
constexpr int sum_blocks_at_once(int groups) { return groups == 1 ? 6 : groups <= 3 ? 4 : groups == 4 ? 3 : 2; }

// Part of a row of y, which a warp walks along from tile `first` to before tile `last`.
struct Stretch {
  int image, row;
  int first, last;
};

__host__ __device__ inline int tiles_of(const Stem& shape, int tile) { return (shape.width + 2 * tile - 1) / (2 * tile); }

__device__ inline Stretch stretch_at(const Stem& shape, int index, int stretches, int tile) {
  const int line = index / stretches, part = index - line * stretches, tiles = tiles_of(shape, tile), height = (shape.height + 1) / 2;
  return {line / height, line % height, part * tiles / stretches, (part + 1) * tiles / stretches};
}

// A row of x, whose numbers lie `step` apart.
struct Row {
  const uint16_t* begin;
  int width, step;
};

// The one that row `tap_row` of the filter, 0 to 8 over all channels, meets in this stretch; without any width if it is beyond the image, or not
// `is_read` by anybody.
__device__ inline Row row_at(const uint16_t* x, const Strides& strides, const Stem& shape, const Stretch& stretch, int tap_row, bool is_read) {
  const int channel = tap_row / kStemSide, row = 2 * stretch.row - 1 + tap_row % kStemSide;
  const int64_t begin = stretch.image * strides.image + channel * strides.channel + row * strides.row;
  return {x + begin, is_read && row >= 0 && row < shape.height ? shape.width : 0, static_cast<int>(strides.column)};
}

// Columns `column` and `column` + 1, zero beyond the row.
__device__ inline uint32_t load_pair(const Row& row, int column) {
  const auto load = [&](int i) -> uint32_t { return i >= 0 && i < row.width ? row.begin[i * row.step] : 0; };
  return load(column) | load(column + 1) << 16;
}

// The pairs of a thread's pixels, from an even column of at least 0 on. `kVectors`: they are one aligned load, which is never partly beyond the row.
template <bool kVectors>
__device__ void load_pairs(uint32_t (&pairs)[kPixels], const Row& row, int column) {
  if (kVectors) {
    Vector<uint32_t> loaded{};
    if (column < row.width) loaded = *reinterpret_cast<const Vector<uint32_t>*>(row.begin + column);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) pairs[i] = loaded.values[i];
  } else {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) pairs[i] = load_pair(row, column + 2 * i);
  }
}

template <typename T>
__device__ uint32_t bits_of(T number) {
  static_assert(sizeof(T) == sizeof(uint16_t));
  uint16_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

// ---- forward: pixels of y x 32 numbers of x, times 32 numbers of x x channels ----

// Which of the filter's taps number `t` of a group holds in half `half` of its pair `pair`, of four: all 27, the bias, and four times nothing.
__device__ inline int tap_of_pair(int t, int pair, int half) {
  if (pair < 2) return kStemSide * (2 * t + pair) + 1 + half;  // two columns of a row of x
  if (pair == 2) return kStemSide * (2 * t + half);            // the column before, of both rows
  // Four threads have eight rows of x. The ninth:
  if (t == 0) return kStemSide * (kStemRows - 1) + 1 + half;
  if (t == 1 && half == 1) return kStemSide * (kStemRows - 1);
  return t == 2 && half == 0 ? kBiasTap : kNoTap;
}

template <typename T>
__device__ uint32_t tap_bits(const T* weight, const Strides& strides, const T* bias, int channel, int tap) {
  if (tap == kNoTap || (tap == kBiasTap && bias == nullptr)) return 0;
  if (tap == kBiasTap) return bits_of(bias[channel]);
  const int row = tap / kStemSide, input = row / kStemSide;
  return bits_of(weight[channel * strides.image + input * strides.channel + row % kStemSide * strides.row + tap % kStemSide * strides.column]);
}

// What it moves: x once, though from memory or from a cache each row of three is read by two warps, and y once.
template <typename T, int kGroups, bool kVectors>
__global__ void __launch_bounds__(kHalfThreads, stem_blocks_at_once(kGroups))
    stem_kernel(const uint16_t* __restrict__ x, Strides x_strides, const T* __restrict__ weight, Strides weight_strides,
                const T* __restrict__ bias, T* __restrict__ y, Stem shape, int stretches) {
  constexpr int kRows = 3;  // of x, of one thread
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  uint32_t weights[kGroups][2][4];
#pragma unroll
  for (int q = 0; q < kGroups; ++q)
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        // So that the four channels that a thread sums, two in each of two products, are neighbours.
        const int channel = kStemGroup * q + 4 * (g / 2) + 2 * i + g % 2;
        const auto bits = [&](int half) { return tap_bits(weight, weight_strides, bias, channel, tap_of_pair(t, pair, half)); };
        weights[q][i][pair] = bits(0) | bits(1) << 16;
      }
  const uint32_t one = bits_of(from_float<T>(1.0f));  // what the bias is multiplied by
  const int height = (shape.height + 1) / 2, width = (shape.width + 1) / 2, all = shape.images * height * stretches;
  const int warps = gridDim.x * (kHalfThreads / kWarp);
  for (int index = blockIdx.x * (kHalfThreads / kWarp) + threadIdx.x / kWarp; index < all; index += warps) {
    const Stretch stretch = stretch_at(shape, index, stretches, kForwardTile);
    Row rows[kRows];
    uint32_t before[kRows];  // of the first group: the pair before its own
    uint32_t next[kRows][kPixels];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      rows[k] = row_at(x, x_strides, shape, stretch, k < 2 ? 2 * t + k : kStemRows - 1, k < 2 || t < 2);
      before[k] = g == 0 ? load_pair(rows[k], 2 * kForwardTile * stretch.first - 2) : 0;
      load_pairs<kVectors>(next[k], rows[k], 2 * (kForwardTile * stretch.first + kPixels * g));
    }
    T* const to = y + static_cast<int64_t>(stretch.image * height + stretch.row) * width * (kGroups * kStemGroup) + 4 * t;
#pragma unroll 1
    for (int tile = stretch.first; tile < stretch.last; ++tile) {
      // For each pixel, its own pair of each row, and the one before.
      uint32_t own[kRows][kPixels], earlier[kRows][kPixels];
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) own[k][j] = next[k][j];
        const uint32_t turned = __shfl_sync(kWholeWarp, own[k][kPixels - 1], (lane + kWarp - 4) % kWarp);
        earlier[k][0] = g == 0 ? before[k] : turned;
        before[k] = turned;  // to the first group comes what the last one has, for the next tile
#pragma unroll
        for (int j = 1; j < kPixels; ++j) earlier[k][j] = own[k][j - 1];
        // The next tile is on its way while this one is worked on.
        if (tile + 1 < stretch.last) load_pairs<kVectors>(next[k], rows[k], 2 * (kForwardTile * (tile + 1) + kPixels * g));
      }
      uint32_t pairs[kPixels][4];
#pragma unroll
      for (int j = 0; j < kPixels; ++j) {
        pairs[j][0] = own[0][j];
        pairs[j][1] = own[1][j];
        pairs[j][2] = __byte_perm(earlier[0][j], earlier[1][j], kBothSecond);
        pairs[j][3] = t == 1 ? earlier[2][j] & 0xffff0000u : t == 2 ? one : own[2][j];
      }
      const int column = kForwardTile * tile + kPixels * g;
#pragma unroll
      for (int q = 0; q < kGroups; ++q) {
#pragma unroll
        for (int j = 0; j < kPixels; j += 2) {
          float sums[2][4] = {};
#pragma unroll
          for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int k = 0; k < 4; k += 2)
              multiply_add<T>(sums[i], {pairs[j][k], pairs[j + 1][k], pairs[j][k + 1], pairs[j + 1][k + 1]},
                              {weights[q][i][k], weights[q][i][k + 1]});
#pragma unroll
          for (int p = 0; p < 2; ++p) {
            if (column + j + p >= width) break;
            // 8 bytes; those of four threads are all of a group of channels.
            const uint64_t low = rounded<T>(sums[0][2 * p], sums[0][2 * p + 1]), high = rounded<T>(sums[1][2 * p], sums[1][2 * p + 1]);
            *reinterpret_cast<uint64_t*>(to + (column + j + p) * (kGroups * kStemGroup) + kStemGroup * q) = high << 32 | low;
          }
        }
      }
    }
  }
}

// ---- gradient of the weight: channels x pixels of y, times pixels of y x 32 numbers of x ----

// Which tap column `column` of product `part`, of four, is.
__device__ inline int tap_of_column(int part, int column) {
  if (part < kStemSide) return kStemSide * column + part;
  return column < kStemSide ? kStemSide * (kStemRows - 1) + column : kNoTap;
}

// For one column of products: of four pixels the first two's numbers of x, and the other two's.
struct FourPixels {
  uint32_t pairs[2];
};

// Tap `tap`, 0 to 2, of a row, for the pixels whose pairs these are.
__device__ inline FourPixels numbers_of(const uint32_t (&pairs)[kPixels], uint32_t before, int tap) {
  const uint32_t a = tap == 0 ? before : pairs[0], b = tap == 0 ? pairs[0] : pairs[1];
  const uint32_t c = tap == 0 ? pairs[1] : pairs[2], d = tap == 0 ? pairs[2] : pairs[3];
  const unsigned which = tap == 1 ? kBothFirst : kBothSecond;
  return {__byte_perm(a, b, which), __byte_perm(c, d, which)};
}

// The two channels of a thread's pixels, in each group of channels, of which `left` are not beyond the row.
template <int kGroups>
__device__ void load_gradients(uint32_t (&grads)[kGroups][kPixels], const uint16_t* from, int stride, int left) {
#pragma unroll
  for (int j = 0; j < kPixels; ++j)
#pragma unroll
    for (int q = 0; q < kGroups; ++q)
      grads[q][j] = j < left ? *reinterpret_cast<const uint32_t*>(from + j * stride + kStemGroup * q) : 0;
}

// What it moves: x and the gradient of y once, but for rows of x, as above.
template <typename T, int kGroups, bool kVectors>
__global__ void __launch_bounds__(kHalfThreads, sum_blocks_at_once(kGroups))
    sum_stem(const uint16_t* __restrict__ x, Strides strides, const uint16_t* __restrict__ grad_y, int grad_stride, Stem shape, int stretches,
             float* partials) {
  constexpr int kWarps = kHalfThreads / kWarp, kChannels = kGroups * kStemGroup;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, warp = threadIdx.x / kWarp;
  const int height = (shape.height + 1) / 2, width = (shape.width + 1) / 2, all = shape.images * height * stretches;
  float sums[kGroups][4][4] = {};
  for (int index = blockIdx.x * kWarps + warp; index < all; index += gridDim.x * kWarps) {
    const Stretch stretch = stretch_at(shape, index, stretches, kGradientTile);
    // Row g of the nine, and for three groups, which take a tap each, the last one.
    const Row rows[] = {row_at(x, strides, shape, stretch, g, true), row_at(x, strides, shape, stretch, kStemRows - 1, g < kStemSide)};
    uint32_t before[2], next[2][kPixels], next_grads[kGroups][kPixels];  // `before`: of the first thread of a group
    int column = kGradientTile * stretch.first + kPixels * t;
    const int64_t pixel = static_cast<int64_t>(stretch.image * height + stretch.row) * width + column;
    const uint16_t* grad = grad_y + pixel * grad_stride + 2 * g;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      before[k] = t == 0 ? load_pair(rows[k], 2 * column - 2) : 0;
      load_pairs<kVectors>(next[k], rows[k], 2 * column);
    }
    load_gradients(next_grads, grad, grad_stride, width - column);
#pragma unroll 1
    for (int tile = stretch.first; tile < stretch.last; ++tile) {
      uint32_t own[2][kPixels], earlier[2], grads[kGroups][kPixels];
      const bool goes_on = tile + 1 < stretch.last;
      column += kGradientTile;
      grad += kGradientTile * grad_stride;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int j = 0; j < kPixels; ++j) own[k][j] = next[k][j];
        const uint32_t turned = __shfl_sync(kWholeWarp, own[k][kPixels - 1], 4 * g + (t + 3) % 4);
        earlier[k] = t == 0 ? before[k] : turned;
        before[k] = turned;
        if (goes_on) load_pairs<kVectors>(next[k], rows[k], 2 * column);
      }
#pragma unroll
      for (int q = 0; q < kGroups; ++q)
#pragma unroll
        for (int j = 0; j < kPixels; ++j) grads[q][j] = next_grads[q][j];
      if (goes_on) load_gradients(next_grads, grad, grad_stride, width - column);
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const FourPixels numbers = part < kStemSide ? numbers_of(own[0], earlier[0], part) : numbers_of(own[1], earlier[1], g);
#pragma unroll
        for (int q = 0; q < kGroups; ++q) {
          const uint32_t(&of)[kPixels] = grads[q];
          multiply_add<T>(sums[q][part],
                          {__byte_perm(of[0], of[1], kBothFirst), __byte_perm(of[0], of[1], kBothSecond), __byte_perm(of[2], of[3], kBothFirst),
                           __byte_perm(of[2], of[3], kBothSecond)},
                          numbers.pairs);
        }
      }
    }
  }
  // The warps add theirs one after the other.
  __shared__ float block_sums[kStemTaps * kChannels];
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int q = 0; q < kGroups; ++q)
#pragma unroll
        for (int part = 0; part < 4; ++part)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int tap = tap_of_column(part, 2 * t + i % 2), channel = kStemGroup * q + 2 * g + i / 2;
            if (tap == kNoTap) continue;
            float& sum = block_sums[tap * kChannels + channel];
            sum = turn == 0 ? sums[q][part][i] : sum + sums[q][part][i];
          }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kStemTaps * kChannels; i += kHalfThreads)
    partials[static_cast<int64_t>(blockIdx.x) * (kStemTaps * kChannels) + i] = block_sums[i];
}

}  // namespace yolov12_kernels
