// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "join.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 4;  // of two by two

// So that as many loads wait for memory at once, whether each row takes one or several.
constexpr int rows_per_thread(int terms) { return terms <= 2 ? 4 : 2; }

// A block's threads as a grid: `columns` vectors side by side cover all channels or a part of them, the rest of the threads take further rows.
struct Layout {
  int columns;
  int rows;
  __host__ __device__ explicit Layout(int vectors) : columns(vectors < kThreads ? vectors : kThreads), rows(kThreads / columns) {}
};

// The first of two by two pixels' rows, counted from a pixel of the image that has half the height and width.
__device__ int64_t corner(int64_t small_row, int small_width) {
  const int64_t line = small_row / small_width;
  return line * 4 * small_width + 2 * (small_row - line * small_width);
}

// From there, the pixel to the right, the one below, and the one right of that.
__device__ int64_t beside(int pixel, int small_width) { return (pixel & 1) + (pixel >> 1) * 2 * static_cast<int64_t>(small_width); }

// Until it is added a vector stays in four registers: as numbers it would take one for each.
using Packed = uint4;

template <typename T>
__device__ void add(float (&sums)[Vector<T>::kSize], const Packed& packed) {
  Vector<T> more;
  memcpy(&more, &packed, kLoadBytes);
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) sums[i] += to_float(more.values[i]);
}

template <typename T>
__device__ Packed rounded(const float (&sums)[Vector<T>::kSize]) {
  Vector<T> result;
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) result.values[i] = from_float<T>(sums[i]);
  Packed packed;
  memcpy(&packed, &result, kLoadBytes);
  return packed;
}

// A thread's vector: which range it is of, and its place there.
struct Place {
  JoinRange range;
  int vector;
};

__device__ Place place_of(const Join& plan, int column) {
  int at = 0;
  while (column >= plan.ranges[at].end) ++at;
  return {plan.ranges[at], column - plan.ranges[at].begin};
}

__device__ const Packed* vector_of(const Rows& rows, int64_t row, int vector, int vector_size) {
  return reinterpret_cast<const Packed*>(static_cast<const char*>(rows.data) + row * rows.stride * (kLoadBytes / vector_size)) + vector;
}

// Each thread writes one vector of `kRows` rows, as far apart as a block takes at once. All its loads come before its first store, so that they
// wait for memory together.
template <typename T, int kTerms>
__global__ void __launch_bounds__(kThreads) join_kernel(const __grid_constant__ Join plan, int64_t rows, int vectors, Packed* out) {
  constexpr int kSize = Vector<T>::kSize;
  constexpr int kRows = rows_per_thread(kTerms);
  const Layout layout(vectors);
  const int column = blockIdx.y * layout.columns + threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  if (row >= layout.rows || column >= vectors) return;
  const Place place = place_of(plan, column);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows * layout.rows + row;

  Packed loaded[kTerms][kRows];
#pragma unroll
  for (int term = 0; term < kTerms; ++term) {
    if (term >= place.range.terms) break;
    const Rows source = plan.sources[place.range.first + term].rows;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (first + r * layout.rows < rows) loaded[term][r] = *vector_of(source, first + r * layout.rows, place.vector, kSize);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t target = first + r * layout.rows;
    if (target >= rows) return;
    Packed result = loaded[0][r];
    if (kTerms > 1 && place.range.terms > 1) {
      float sums[kSize] = {};
#pragma unroll
      for (int term = 0; term < kTerms; ++term)
        if (term < place.range.terms) add<T>(sums, loaded[term][r]);
      result = rounded<T>(sums);
    }
    out[target * vectors + column] = result;
  }
}

// The same without sums, where some sources are doubled: each thread writes one vector of two by two pixels.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    join_doubled_kernel(const __grid_constant__ Join plan, int64_t small_rows, int vectors, Packed* out) {
  constexpr int kSize = Vector<T>::kSize;
  const Layout layout(vectors);
  const int column = blockIdx.y * layout.columns + threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  const int64_t small_row = static_cast<int64_t>(blockIdx.x) * layout.rows + row;
  if (row >= layout.rows || column >= vectors || small_row >= small_rows) return;
  const Place place = place_of(plan, column);
  const JoinSource source = plan.sources[place.range.first];
  const int small_width = plan.width / 2;
  const int64_t first = corner(small_row, small_width);

  Packed loaded[kPixels];
  if (source.doubled) {
    loaded[0] = *vector_of(source.rows, small_row, place.vector, kSize);
#pragma unroll
    for (int pixel = 1; pixel < kPixels; ++pixel) loaded[pixel] = loaded[0];
  } else {
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel)
      loaded[pixel] = *vector_of(source.rows, first + beside(pixel, small_width), place.vector, kSize);
  }
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) out[(first + beside(pixel, small_width)) * vectors + column] = loaded[pixel];
}

template <typename T>
__global__ void __launch_bounds__(kThreads) halve_kernel(Rows x, int64_t rows, int width, int vectors, Packed* out) {
  constexpr int kSize = Vector<T>::kSize;
  const Layout layout(vectors);
  const int column = blockIdx.y * layout.columns + threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  const int64_t target = static_cast<int64_t>(blockIdx.x) * layout.rows + row;
  if (row >= layout.rows || column >= vectors || target >= rows) return;
  const int64_t first = corner(target, width);
  Packed loaded[kPixels];
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) loaded[pixel] = *vector_of(x, first + beside(pixel, width), column, kSize);
  float sums[kSize] = {};
#pragma unroll
  for (int pixel = 0; pixel < kPixels; ++pixel) add<T>(sums, loaded[pixel]);
  out[target * vectors + column] = rounded<T>(sums);
}

// `units`: how many threads a column of vectors needs.
dim3 grid(int64_t units, int vectors) {
  const Layout layout(vectors);
  return dim3(static_cast<unsigned>((units + layout.rows - 1) / layout.rows), (vectors + layout.columns - 1) / layout.columns);
}

template <typename T, int kTerms>
void sum(const Join& plan, int64_t rows, int vectors, Packed* out, cudaStream_t stream) {
  constexpr int kRows = rows_per_thread(kTerms);
  join_kernel<T, kTerms><<<grid((rows + kRows - 1) / kRows, vectors), kThreads, 0, stream>>>(plan, rows, vectors, out);
}

}  // namespace

void join(const Join& plan, void* out, cudaStream_t stream) {
  const int64_t rows = static_cast<int64_t>(plan.images) * plan.height * plan.width;
  const int vectors = plan.ranges[plan.ranges_count - 1].end;
  int terms = 1;
  for (int i = 0; i < plan.ranges_count; ++i) terms = std::max(terms, plan.ranges[i].terms);
  const bool doubles = std::any_of(plan.sources, plan.sources + plan.sources_count, [](const JoinSource& source) { return source.doubled; });
  Packed* target = static_cast<Packed*>(out);
  with_type(plan.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (doubles)
      join_doubled_kernel<T><<<grid(rows / kPixels, vectors), kThreads, 0, stream>>>(plan, rows / kPixels, vectors, target);
    else if (terms == 1)
      sum<T, 1>(plan, rows, vectors, target, stream);
    else if (terms == 2)
      sum<T, 2>(plan, rows, vectors, target, stream);
    else
      sum<T, kMostTerms>(plan, rows, vectors, target, stream);
  });
}

void halve(Rows x, void* out, int images, int height, int width, int channels, Type type, cudaStream_t stream) {
  const int64_t rows = static_cast<int64_t>(images) * height * width;
  const int vectors = channels / elements_per_load(type);
  with_type(type, [&](auto* of) {
    using T = std::remove_pointer_t<decltype(of)>;
    halve_kernel<T><<<grid(rows, vectors), kThreads, 0, stream>>>(x, rows, width, vectors, static_cast<Packed*>(out));
  });
}

}  // namespace yolov12_kernels
