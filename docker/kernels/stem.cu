// SPDX-License-Identifier: AGPL-3.0-or-later
#include "stem.h"

#include <algorithm>
#include <type_traits>

#include "blocks.h"
#include "numbers.cuh"
#include "stem_floats.cuh"
#include "stem_halves.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kFinishThreads = 128;

int lines_of(const Stem& shape) { return shape.images * shape.rows(); }

// How the work of a kernel whose warps walk along rows is divided: rows are many, but for few images, where each is divided too.
struct Division {
  int blocks, stretches;
  Division(const Stem& shape, int tile, int most_blocks) {
    constexpr int kWarps = kHalfThreads / kWarp;
    stretches = std::clamp(blocks_for(most_blocks * kWarps, lines_of(shape)), 1, tiles_of(shape, tile));
    blocks = std::min(blocks_for(lines_of(shape) * stretches, kWarps), most_blocks);
  }
};

Division sum_division(const Stem& shape, int multiprocessors) {
  return {shape, kGradientTile, multiprocessors * sum_blocks_at_once(shape.channels / kStemGroup)};
}

// Whether the rows of `x` can be read as vectors.
bool are_vectors(const Stem& shape, const Planes& x) {
  constexpr int kSize = kLoadBytes / sizeof(uint16_t);
  const Strides& strides = x.strides;
  return strides.column == 1 && shape.width % kSize == 0 && strides.row % kSize == 0 && strides.channel % kSize == 0 &&
         strides.image % kSize == 0 && reinterpret_cast<uintptr_t>(x.data) % kLoadBytes == 0;
}

// Adds the blocks' sums of one tap and channel; a warp for each.
template <typename T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_stem(const float* __restrict__ partials, int blocks, int channels, T* grad_weight, Strides strides) {
  const int at = (blockIdx.x * kFinishThreads + threadIdx.x) / kWarp, all = kStemTaps * channels;
  if (at >= all) return;
  double sum = 0.0;
  for (int block = threadIdx.x % kWarp; block < blocks; block += kWarp) sum += partials[static_cast<int64_t>(block) * all + at];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_down_sync(kWholeWarp, sum, distance);
  if (threadIdx.x % kWarp != 0) return;
  const int tap = at / channels, channel = at % channels, row = tap / kStemSide;
  grad_weight[channel * strides.image + row / kStemSide * strides.channel + row % kStemSide * strides.row + tap % kStemSide * strides.column] =
      from_float<T>(static_cast<float>(sum));
}

// The kernels for halves are templates over the groups of channels and how x is read; this picks the instance. `call` takes two constants.
template <int kGroups = kMostStemChannels / kStemGroup, typename Call>
void with_groups(int groups, bool vectors, const Call& call) {
  if constexpr (kGroups > 0) {
    if (groups != kGroups) return with_groups<kGroups - 1>(groups, vectors, call);
    constexpr std::integral_constant<int, kGroups> constant;
    return vectors ? call(constant, std::true_type()) : call(constant, std::false_type());
  }
}

}  // namespace

void stem(const Stem& shape, const Planes& x, const Planes& weight, const void* bias, void* y, int multiprocessors, cudaStream_t stream) {
  const int groups = shape.channels / kStemGroup;
  with_type(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* const weights = static_cast<const T*>(weight.data);
    const T* const biases = static_cast<const T*>(bias);
    T* const to = static_cast<T*>(y);
    if constexpr (std::is_same_v<T, float>) {
      const float* const from = static_cast<const float*>(x.data);
      const int tiles = lines_of(shape) * blocks_for(shape.columns(), kFloatPixels);
      const dim3 blocks(std::min(blocks_for(tiles, kFloatThreads / kFloatLanes), multiprocessors * kFloatBlocks), groups);
      const auto kernel = x.strides.column == 1 ? stem_floats_kernel<true> : stem_floats_kernel<false>;
      kernel<<<blocks, kFloatThreads, 0, stream>>>(from, x.strides, weights, weight.strides, biases, to, shape);
    } else {
      const uint16_t* const from = static_cast<const uint16_t*>(x.data);
      const Division division(shape, kForwardTile, multiprocessors * stem_blocks_at_once(groups));
      const int blocks = division.blocks, stretches = division.stretches;
      with_groups(groups, are_vectors(shape, x), [&](auto group_count, auto vectors) {
        const auto kernel = stem_kernel<T, decltype(group_count)::value, decltype(vectors)::value>;
        kernel<<<blocks, kHalfThreads, 0, stream>>>(from, x.strides, weights, weight.strides, biases, to, shape, stretches);
      });
    }
  });
}

int stem_blocks(const Stem& shape, int multiprocessors) {
  if (shape.type == Type::kFloat) return std::min(blocks_for(lines_of(shape), kFloatWalkers), multiprocessors * kFloatSumBlocks);
  return sum_division(shape, multiprocessors).blocks;
}

void stem_weight_gradient(const Stem& shape, const Planes& x, Rows grad_y, void* grad_weight, const Strides& weight_strides, float* partials,
                          int blocks, int multiprocessors, cudaStream_t stream) {
  const int groups = shape.channels / kStemGroup, finish_blocks = blocks_for(kStemTaps * shape.channels, kFinishThreads / kWarp);
  with_type(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if constexpr (std::is_same_v<T, float>) {
      const float* const from = static_cast<const float*>(x.data);
      const float* const grads = static_cast<const float*>(grad_y.data);
      const dim3 all_blocks(blocks, groups), threads(kFloatLanes, kStemInputs, kFloatWalkers);
      const auto kernel = x.strides.column == 1 ? sum_stem_floats<true> : sum_stem_floats<false>;
      kernel<<<all_blocks, threads, 0, stream>>>(from, x.strides, grads, grad_y.stride, shape, partials);
    } else {
      const uint16_t* const from = static_cast<const uint16_t*>(x.data);
      const uint16_t* const grads = static_cast<const uint16_t*>(grad_y.data);
      const int stretches = sum_division(shape, multiprocessors).stretches, grad_stride = static_cast<int>(grad_y.stride);
      with_groups(groups, are_vectors(shape, x), [&](auto group_count, auto vectors) {
        const auto kernel = sum_stem<T, decltype(group_count)::value, decltype(vectors)::value>;
        kernel<<<blocks, kHalfThreads, 0, stream>>>(from, x.strides, grads, grad_stride, shape, stretches, partials);
      });
    }
    T* const to = static_cast<T*>(grad_weight);
    const auto finish = finish_stem<T>;
    finish<<<finish_blocks, kFinishThreads, 0, stream>>>(partials, blocks, shape.channels, to, weight_strides);
  });
}

}  // namespace yolov12_kernels
