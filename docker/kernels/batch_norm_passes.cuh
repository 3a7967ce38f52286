// SPDX-License-Identifier: AGPL-3.0-or-later
// What the passes of batch norm over a matrix of rows and channels share: which thread takes which part of it, and how it is read and written.
#pragma once

#include <algorithm>
#include <limits>

#include "batch_norm_act.h"
#include "numbers.cuh"

namespace yolov12_kernels {

constexpr int kThreads = 256;
constexpr int kMostColumns = 16;  // few, so that a block has many rows: it adds these up, and the blocks' sums are what finishes them reads
constexpr int kRowsOfSum = 2, kRowsOfWriter = 4;  // of a thread: of one that adds up at least, of one that writes at most

// Of a kernel: the rows that a thread loads before it computes, and how many blocks a multiprocessor has room for at least. More of one leaves
// fewer registers for the other. On an H200 few blocks with many loads under way were best for sums, and many short ones for what writes
// (batch_norm_variants.log of 2026-11-29).
struct Tuning {
  int rows_at_once;
  int blocks;
};

// How a launch shares the matrix. A block takes `columns` loads of a row side by side, of `lines` rows, and then of every row that is as far
// above as all blocks together have lines; `groups` blocks side by side cover all channels.
struct Share {
  int64_t rows;
  int channels, columns, lines, groups, blocks;
  int each, more;  // rows of a thread: `each`, and one more for the first `more` lines
  int grid() const { return blocks * groups; }
};

inline Share share_of(const Shape& shape, int rows_of_thread, int64_t most_blocks) {
  Share share{};
  share.rows = shape.rows;
  share.channels = shape.channels;
  const int loads = shape.channels / elements_per_load(shape.type);
  share.groups = (loads + kMostColumns - 1) / kMostColumns;
  share.columns = (loads + share.groups - 1) / share.groups;
  share.lines = kThreads / share.columns;
  const int64_t rows_of_block = static_cast<int64_t>(share.lines) * rows_of_thread;
  const int64_t wanted = (shape.rows + rows_of_block - 1) / rows_of_block;
  share.blocks = static_cast<int>(std::max<int64_t>(std::min(wanted, most_blocks / share.groups), 1));
  const int64_t step = static_cast<int64_t>(share.blocks) * share.lines;
  share.each = static_cast<int>(shape.rows / step);
  share.more = static_cast<int>(shape.rows % step);
  return share;
}

// As many blocks as run at once: none begins when others are through, and their sums are few.
inline Share share_of_sums(const Shape& shape, const Tuning& tuning, int multiprocessors) {
  return share_of(shape, kRowsOfSum, static_cast<int64_t>(multiprocessors) * tuning.blocks);
}

inline Share share_of_writer(const Shape& shape) { return share_of(shape, kRowsOfWriter, std::numeric_limits<int64_t>::max()); }

// What a thread has of it: loads at `channel` of `rows` rows, of which the first is `first` and each other one `step` above the one before. All
// passes begin at the end: what wrote the tensor wrote that last, so that the cache still holds it, and what reads the result begins with what
// was written last here.
struct Part {
  int block, line, column, channel;
  int rows;
  int64_t first, step;

  __device__ Part(const Share& share, int load) {
    block = blockIdx.x / share.groups;
    line = threadIdx.x / share.columns;
    column = threadIdx.x % share.columns;
    channel = (blockIdx.x % share.groups * share.columns + column) * load;
    const int row = block * share.lines + line;
    const bool has_work = line < share.lines && channel < share.channels;
    rows = has_work ? share.each + (row < share.more) : 0;
    first = share.rows - 1 - row;
    step = share.blocks * share.lines;
  }
};

// Goes through a thread's rows.
template <typename T>
struct Cursor {
  T* at;
  int64_t jump;
  __device__ Cursor(const Rows& rows, const Part& part)
      : at(static_cast<T*>(rows.data) + part.first * rows.stride + part.channel), jump(-part.step * rows.stride) {}
  __device__ T* next() {
    T* const here = at;
    at += jump;
    return here;
  }
};

// Loads stay words until they are used: types of 16 bits under a condition would be copied one by one.
template <typename T>
__device__ uint4 load(const T* from) {
  return __ldg(reinterpret_cast<const uint4*>(from));
}

template <typename T>
__device__ void unpack(float (&values)[Vector<T>::kSize], const uint4& words) {
  const Vector<T>& vector = reinterpret_cast<const Vector<T>&>(words);
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) values[i] = to_float(vector.values[i]);
}

// A bfloat16 is the upper half of a float32: one instruction each, where the compiler finds more.
template <>
__device__ inline void unpack<__nv_bfloat16>(float (&values)[8], const uint4& words) {
  const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(pairs[i] << 16);
    values[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

template <typename T>
__device__ Vector<T> pack(const float (&values)[Vector<T>::kSize]) {
  Vector<T> vector;
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) vector.values[i] = from_float<T>(values[i]);
  return vector;
}

template <typename T>
__device__ void store(T* to, const float (&values)[Vector<T>::kSize]) {
  *reinterpret_cast<Vector<T>*>(to) = pack<T>(values);
}

template <int kSize>
__device__ void load_constants(float (&values)[kSize], const float* constants) {
#pragma unroll
  for (int i = 0; i < kSize; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(constants + i);
    values[i] = four.x;
    values[i + 1] = four.y;
    values[i + 2] = four.z;
    values[i + 3] = four.w;
  }
}

}  // namespace yolov12_kernels
