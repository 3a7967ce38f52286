// SPDX-License-Identifier: AGPL-3.0-or-later
#include "attend.h"

#include <cmath>

#include "numbers.cuh"
#include "pipeline.cuh"
#include "tensor_cores.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;    // queries of a block, and keys that pass by at once
constexpr int kMatrix = 16;  // queries of a warp
constexpr int kStages = 4;
constexpr int kLoads = kHeadNumbers / kNumbersOfLoad;  // of a row
constexpr int kPart = kRows * kLoads;            // loads of the queries, and of the keys or the values of a stage
constexpr int kSharedBytes = (1 + 2 * kStages) * kPart * kLoadBytes;
constexpr int kTiles = kRows / 8;                // columns of scores, 8 at a time
constexpr float kLog2OfE = 1.4426950408889634f;

// Where load `load` of row `row` lies. Eight rows that are read at once, 64 bytes apart, lie in different banks.
__device__ inline int place_of(int row, int load) { return row * kLoads + (load ^ (row / 2 % kLoads)); }

// A thread's share of copying kRows rows from `first` on; zero beyond the last token.
template <typename T>
__device__ void copy_rows(Vector<T>* to, const T* from, int64_t token, int first, int tokens) {
#pragma unroll
  for (int i = 0; i < kPart / kThreads; ++i) {
    const int row = (threadIdx.x + i * kThreads) / kLoads, load = threadIdx.x % kLoads;
    const bool is_there = first + row < tokens;
    begin_copy<false>(to + place_of(row, load), is_there ? from + (first + row) * token + load * kNumbersOfLoad : from, is_there ? kLoadBytes : 0);
  }
}

template <typename T>
__device__ const T* begin_of(const Heads& of) {
  return static_cast<const T*>(of.data) + blockIdx.z * of.sequence + blockIdx.y * of.head;
}

// Over the four threads that share rows of scores.
__device__ inline float largest_of_four(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

__device__ inline float sum_of_four(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) attend_kernel(const Heads q, const Heads k, const Heads v, const Heads out, int tokens, float scale) {
  Vector<T>* const queries = reinterpret_cast<Vector<T>*>(shared_begin());
  const auto keys_of = [&](int chunk) { return queries + (1 + 2 * (chunk % kStages)) * kPart; };
  const int first = blockIdx.x * kRows, chunks = (tokens + kRows - 1) / kRows;
  const auto copy_chunk = [&](int chunk) {
    copy_rows(keys_of(chunk), begin_of<T>(k), k.token, chunk * kRows, tokens);
    copy_rows(keys_of(chunk) + kPart, begin_of<T>(v), v.token, chunk * kRows, tokens);
  };
  wait_for_kernels_before();
  let_next_kernel_begin();
  copy_rows(queries, begin_of<T>(q), q.token, first, tokens);
#pragma unroll
  for (int chunk = 0; chunk < kStages - 1; ++chunk) {
    if (chunk < chunks) copy_chunk(chunk);
    end_group();
  }

  const int lane = threadIdx.x % 32, top = threadIdx.x / 32 * kMatrix;
  uint32_t a[kHeadNumbers / kMatrix][4];
  float sums[kHeadNumbers / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, weight[2] = {};  // of the thread's two rows; its own share of the second
  for (int chunk = 0; chunk < chunks; ++chunk) {
    wait_for_groups<kStages - 2>();
    __syncthreads();  // this chunk is there for all, and nobody reads the one before it any more
    if (chunk + kStages - 1 < chunks) copy_chunk(chunk + kStages - 1);
    end_group();
    if (chunk == 0) {
#pragma unroll
      for (int i = 0; i < kHeadNumbers / kMatrix; ++i) load_matrices(a[i], queries + place_of(top + lane % 16, 2 * i + lane / 16));
    }
    const Vector<T>* const keys = keys_of(chunk);
    float scores[kTiles][4] = {};
#pragma unroll
    for (int j = 0; j < kTiles / 2; ++j)
#pragma unroll
      for (int i = 0; i < kHeadNumbers / kMatrix; ++i) {
        uint32_t b[4];
        load_matrices(b, keys + place_of(j * kMatrix + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
        multiply_add<T>(scores[2 * j], a[i], {b[0], b[1]});
        multiply_add<T>(scores[2 * j + 1], a[i], {b[2], b[3]});
      }

    const int left = tokens - chunk * kRows;
    float before[2] = {largest[0], largest[1]};
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (j * 8 + lane % 4 * 2 + i % 2 >= left) scores[j][i] = -INFINITY;
        largest[i / 2] = fmaxf(largest[i / 2], scores[j][i]);
      }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      largest[row] = largest_of_four(largest[row]);
      const float shrunk = exp2f((before[row] - largest[row]) * scale);
      weight[row] *= shrunk;
#pragma unroll
      for (int j = 0; j < kHeadNumbers / 8; ++j) {
        sums[j][2 * row] *= shrunk;
        sums[j][2 * row + 1] *= shrunk;
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[j][i] = exp2f((scores[j][i] - largest[i / 2]) * scale);
        weight[i / 2] += scores[j][i];
      }

    const Vector<T>* const values = keys + kPart;
#pragma unroll
    for (int j = 0; j < kTiles / 2; ++j) {
      const uint32_t weights[4] = {rounded<T>(scores[2 * j][0], scores[2 * j][1]), rounded<T>(scores[2 * j][2], scores[2 * j][3]),
                                   rounded<T>(scores[2 * j + 1][0], scores[2 * j + 1][1]), rounded<T>(scores[2 * j + 1][2], scores[2 * j + 1][3])};
#pragma unroll
      for (int i = 0; i < kHeadNumbers / kMatrix; ++i) {
        uint32_t b[4];
        load_turned_matrices(b, values + place_of(j * kMatrix + lane % 16, 2 * i + lane / 16));
        multiply_add<T>(sums[2 * i], weights, {b[0], b[1]});
        multiply_add<T>(sums[2 * i + 1], weights, {b[2], b[3]});
      }
    }
  }

#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float whole = sum_of_four(weight[row]);
    const int token = first + top + row * 8 + lane / 4;
    if (token >= tokens) continue;
    T* const to = static_cast<T*>(out.data) + blockIdx.z * out.sequence + token * out.token + blockIdx.y * out.head + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kHeadNumbers / 8; ++j)
      *reinterpret_cast<uint32_t*>(to + j * 8) = rounded<T>(sums[j][2 * row] / whole, sums[j][2 * row + 1] / whole);
  }
}

}  // namespace

void attend(const Attention& shape, Heads q, Heads k, Heads v, Heads out, bool early, cudaStream_t stream) {
  const dim3 blocks((shape.tokens + kRows - 1) / kRows, shape.heads, shape.sequences);
  const float scale = kLog2OfE / std::sqrt(static_cast<float>(kHeadNumbers));
  const auto kernel = shape.type == Type::kHalf ? attend_kernel<__half> : attend_kernel<__nv_bfloat16>;
  launch(kernel, blocks, kThreads, kSharedBytes, early, stream, q, k, v, out, shape.tokens, scale);
}

}  // namespace yolov12_kernels
