// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "depthwise.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kChannels = 2;  // of one thread, one load: 32 threads take a whole line of memory
constexpr int kThreads = 128;
constexpr int kMostLanes = 32;  // threads side by side over channels: 64 channels
constexpr int kFinishLanes = 32, kFinishParts = 16;
constexpr int kPlaneColumns = 32, kPlaneThreads = 4;  // of a block: side by side, and one below the other
constexpr int kPlaneRows = 4;                         // of one thread: each value that is read serves up to a filter's side of them

// How a filter's kernels are cut. What counts is how many instructions go with each product: a value of x is loaded and made a float32 once for
// all taps and pixels of a tile that it meets, and all taps, or their sums, stay in registers.
template <int kSide>
struct Plan {
  static constexpr int kTaps = kSide * kSide, kMargin = kSide / 2;
  static constexpr int kColumns = kSide == kSmallFilter ? 5 : 4, kRows = 5;       // of a thread's tile
  static_assert(kColumns >= kMargin, "no tile but the first of a row reads beyond the left border");
  static constexpr int kWide = kColumns + kSide - 1, kTall = kRows + kSide - 1;  // of x, that a tile reads
  static constexpr int kAhead = kSide == kSmallFilter ? 3 : 2;                   // rows of x on their way while one is worked on
  static constexpr int kBlocks = kSide == kSmallFilter ? 4 : 2;                  // that fit onto a multiprocessor at once, and are started
};

// How threads and blocks share the channels: `lanes` threads of a block, in `blocks` blocks.
struct Lanes {
  int lanes;
  int blocks;
  explicit Lanes(int channels) {
    const int groups = channels / kChannels;
    blocks = (groups + kMostLanes - 1) / kMostLanes;
    lanes = (groups + blocks - 1) / blocks;
  }
};

// A thread's channels of a pixel, to compute with.
struct Pair {
  float first, second;
};

__device__ void add_product(Pair& sum, const Pair& a, const Pair& b) {
  sum.first += a.first * b.first;
  sum.second += a.second * b.second;
}

// The same as they lie in memory. Taken apart as one word: numbers of 16 bits would be moved one by one.
template <typename T>
struct Packed {
  uint32_t bits;
};
template <>
struct alignas(8) Packed<float> {
  float first, second;
};

__device__ Pair unpacked(const Packed<float>& packed) { return {packed.first, packed.second}; }
__device__ Pair unpacked(const Packed<__half>& packed) {
  __half2 both;
  memcpy(&both, &packed, sizeof both);
  return {__low2float(both), __high2float(both)};
}
// A bfloat16 is the upper half of a float32.
__device__ Pair unpacked(const Packed<__nv_bfloat16>& packed) {
  return {__uint_as_float(packed.bits << 16), __uint_as_float(packed.bits & 0xFFFF0000u)};
}

template <typename T>
__device__ Packed<T> packed(const Pair& pair) {
  const T values[kChannels] = {from_float<T>(pair.first), from_float<T>(pair.second)};
  Packed<T> made;
  memcpy(&made, values, sizeof made);
  return made;
}

// Where a tile lies.
struct Tile {
  int64_t line;     // of all images' lines, the tile's first
  int row, column;  // in its image
};

// A block takes tiles that follow each other, so that it finds most of what they share in its cache.
template <typename P>
struct Tiles {
  int across, down, first, last;
  __device__ explicit Tiles(const Depthwise& shape) {
    across = (shape.width + P::kColumns - 1) / P::kColumns;
    down = (shape.height + P::kRows - 1) / P::kRows;
    const int all = shape.images * down * across, each = (all + gridDim.x - 1) / gridDim.x;
    first = blockIdx.x * each;
    last = min(first + each, all);
  }
  __device__ Tile at(int tile, const Depthwise& shape) const {
    const int above = tile / across, image = above / down, row = (above - image * down) * P::kRows;
    return {static_cast<int64_t>(image) * shape.height + row, row, (tile - above * across) * P::kColumns};
  }
};

// Row `j` of what a tile reads of an image: a thread's channels of the pixels from `kMargin` left of the tile on, in a row that is `j - kMargin`
// below its first; zero beyond the image. `data` begins with the thread's first channel.
template <int kMargin, typename T, int kCount>
__device__ void load_row(Packed<T> (&pixels)[kCount], const T* data, int64_t stride, const Depthwise& shape, const Tile& tile, int j) {
  const int row = tile.row + j - kMargin;
  const T* from = data + ((tile.line + j - kMargin) * shape.width + tile.column - kMargin) * stride;
  const bool is_row = row >= 0 && row < shape.height, is_left = tile.column == 0;
  if (is_row && (kMargin == 0 || !is_left) && tile.column - kMargin + kCount <= shape.width) {
#pragma unroll
    for (int i = 0; i < kCount; ++i, from += stride) pixels[i] = *reinterpret_cast<const Packed<T>*>(from);
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i, from += stride) {
    pixels[i] = Packed<T>{};
    const bool is_column = i < kMargin ? !is_left : tile.column + i - kMargin < shape.width;
    if (is_row && is_column) pixels[i] = *reinterpret_cast<const Packed<T>*>(from);
  }
}

// A thread's way through its tiles: for each, `work(j)` on row j of those that it reads, and then `end(tile)`. `load(tile, j, place)` is called
// kAhead rows before, across tiles: a tile's row j has place j, and those of the one after it follow, which `end` moves to the front.
template <int kSide, typename Load, typename Work, typename End>
__device__ void walk_tiles(const Depthwise& shape, const Load& load, const Work& work, const End& end) {
  using P = Plan<kSide>;
  const Tiles<P> tiles(shape);
  int i = tiles.first + threadIdx.y;
  if (i >= tiles.last) return;
  Tile tile = tiles.at(i, shape);
#pragma unroll
  for (int j = 0; j < P::kAhead; ++j) load(tile, j, j);
  while (true) {
    const int following = i + blockDim.y;
    const Tile next = tiles.at(following < tiles.last ? following : i, shape);
#pragma unroll
    for (int j = 0; j < P::kTall; ++j) {
      const int place = j + P::kAhead;
      if (place < P::kTall)
        load(tile, place, place);
      else
        load(next, place - P::kTall, place);
      work(j);
    }
    end(tile);
    if (following >= tiles.last) return;
    tile = next;
    i = following;
  }
}

// Moves the last kAhead rows to the front.
template <int kAhead, typename T, int kPlaces, int kCount>
__device__ void move_up(Packed<T> (&rows)[kPlaces][kCount]) {
#pragma unroll
  for (int j = 0; j < kAhead; ++j)
#pragma unroll
    for (int i = 0; i < kCount; ++i) rows[j][i] = rows[kPlaces - kAhead + j][i];
}

template <typename T, int kCount>
__device__ void unpack(Pair (&values)[kCount], const Packed<T> (&pixels)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = unpacked(pixels[i]);
}

template <typename T, int kSide>
__global__ void __launch_bounds__(kThreads, Plan<kSide>::kBlocks)
    depthwise_kernel(const T* __restrict__ x, int x_stride, const T* __restrict__ weight, T* __restrict__ y, int y_stride, Depthwise shape,
                     bool turned) {
  using P = Plan<kSide>;
  __shared__ Pair filter[P::kTaps][kMostLanes + 1];  // one more, so that the taps of a channel lie in other banks
  const int lanes = blockDim.x, first_channel = blockIdx.y * lanes * kChannels;
  for (int i = threadIdx.y * lanes + threadIdx.x; i < P::kTaps * lanes * kChannels; i += lanes * blockDim.y) {
    const int channel = i / P::kTaps, tap = i % P::kTaps;
    if (first_channel + channel >= shape.channels) break;
    Pair& to = filter[turned ? P::kTaps - 1 - tap : tap][channel / kChannels];
    (channel % kChannels == 0 ? to.first : to.second) = to_float(weight[first_channel * P::kTaps + i]);
  }
  __syncthreads();
  const int channel = first_channel + threadIdx.x * kChannels;
  if (channel >= shape.channels) return;
  Pair taps[P::kTaps];
#pragma unroll
  for (int tap = 0; tap < P::kTaps; ++tap) taps[tap] = filter[tap][threadIdx.x];
  Packed<T> rows[P::kTall + P::kAhead][P::kWide];
  Pair sums[P::kRows][P::kColumns] = {};
  const auto load = [&](const Tile& tile, int j, int place) { load_row<P::kMargin>(rows[place], x + channel, x_stride, shape, tile, j); };
  const auto work = [&](int j) {
    Pair values[P::kWide];
    unpack(values, rows[j]);
#pragma unroll
    for (int row = 0; row < P::kRows; ++row) {
      const int r = j - row;
      if (r < 0 || r >= kSide) continue;
#pragma unroll
      for (int s = 0; s < kSide; ++s)
#pragma unroll
        for (int p = 0; p < P::kColumns; ++p) add_product(sums[row][p], values[p + s], taps[r * kSide + s]);
    }
  };
  const auto end = [&](const Tile& tile) {
    T* const to = y + (tile.line * shape.width + tile.column) * y_stride + channel;
#pragma unroll
    for (int row = 0; row < P::kRows; ++row) {
      T* const line = to + static_cast<int64_t>(row) * shape.width * y_stride;
#pragma unroll
      for (int p = 0; p < P::kColumns; ++p) {
        if (tile.row + row < shape.height && tile.column + p < shape.width)
          *reinterpret_cast<Packed<T>*>(line + p * y_stride) = packed<T>(sums[row][p]);
        sums[row][p] = {};
      }
    }
    move_up<P::kAhead>(rows);
  };
  walk_tiles<kSide>(shape, load, work, end);
}

// A block makes a tile of one plane, a thread some pixels of one column: neighbours read neighbouring values, and find most of them in the cache.
template <typename T, int kSide>
__global__ void __launch_bounds__(kPlaneColumns * kPlaneThreads)
    planes_kernel(const T* __restrict__ x, int64_t image_stride, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y,
                  Depthwise shape, int tiles_across, int tiles_down) {
  constexpr int kTaps = kSide * kSide, kMargin = kSide / 2;
  const unsigned above = blockIdx.x / tiles_across, plane = above / tiles_down;
  const unsigned image = plane / shape.channels, channel = plane - image * shape.channels;
  const int column = (blockIdx.x - above * tiles_across) * kPlaneColumns + threadIdx.x;
  const int first_row = ((above - plane * tiles_down) * kPlaneThreads + threadIdx.y) * kPlaneRows;
  if (column >= shape.width || first_row >= shape.height) return;
  float taps[kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) taps[tap] = to_float(weight[channel * kTaps + tap]);
  const int pixels = shape.height * shape.width;
  const T* const from = x + image * image_stride + static_cast<int64_t>(channel) * pixels;
  T* const to = y + static_cast<int64_t>(plane) * pixels;
  float sums[kPlaneRows] = {};
#pragma unroll
  for (int i = 0; i < kPlaneRows + kSide - 1; ++i) {
    const int row = first_row + i - kMargin;
    if (row < 0 || row >= shape.height) continue;
    const T* const line = from + row * shape.width;
    float values[kSide];
#pragma unroll
    for (int s = 0; s < kSide; ++s) {
      const int at = column + s - kMargin;
      values[s] = at >= 0 && at < shape.width ? to_float(line[at]) : 0.0f;
    }
#pragma unroll
    for (int p = 0; p < kPlaneRows; ++p) {
      const int r = i - p;
      if (r < 0 || r >= kSide) continue;
#pragma unroll
      for (int s = 0; s < kSide; ++s) sums[p] += values[s] * taps[r * kSide + s];
    }
  }
  const float shift = bias == nullptr ? 0.0f : to_float(bias[channel]);
#pragma unroll
  for (int p = 0; p < kPlaneRows; ++p) {
    if (first_row + p < shape.height) to[(first_row + p) * shape.width + column] = from_float<T>(sums[p] + shift);
  }
}

// Sums over a block's tiles, for all taps in each thread, which its threads then add to each other in turn.
template <typename T, int kSide>
__global__ void __launch_bounds__(kThreads, Plan<kSide>::kBlocks)
    sum_taps(const T* __restrict__ x, int x_stride, const T* __restrict__ grad_y, int grad_stride, Depthwise shape, float* partials) {
  using P = Plan<kSide>;
  __shared__ Pair shared[P::kTaps][kMostLanes];
  const int channel = (blockIdx.y * blockDim.x + threadIdx.x) * kChannels;
  const bool is_channel = channel < shape.channels;
  Pair sums[P::kTaps] = {};
  Packed<T> rows[P::kTall + P::kAhead][P::kWide], grad_rows[P::kRows + P::kAhead][P::kColumns];
  Pair grads[P::kRows][P::kColumns];
  const auto load = [&](const Tile& tile, int j, int place) {
    load_row<P::kMargin>(rows[place], x + channel, x_stride, shape, tile, j);
    if (j >= P::kRows) return;
    load_row<0>(grad_rows[place == j ? j : P::kRows + j], grad_y + channel, grad_stride, shape, tile, j);
  };
  const auto work = [&](int j) {
    Pair values[P::kWide];
    unpack(values, rows[j]);
    if (j < P::kRows) unpack(grads[j], grad_rows[j]);
#pragma unroll
    for (int row = 0; row < P::kRows; ++row) {
      const int r = j - row;
      if (r < 0 || r >= kSide) continue;
#pragma unroll
      for (int s = 0; s < kSide; ++s)
#pragma unroll
        for (int p = 0; p < P::kColumns; ++p) add_product(sums[r * kSide + s], values[p + s], grads[row][p]);
    }
  };
  const auto end = [&](const Tile&) {
    move_up<P::kAhead>(rows);
    move_up<P::kAhead>(grad_rows);
  };
  if (is_channel) walk_tiles<kSide>(shape, load, work, end);
  for (int turn = 0; turn < blockDim.y; ++turn) {
    if (threadIdx.y == turn) {
#pragma unroll
      for (int tap = 0; tap < P::kTaps; ++tap) {
        Pair& sum = shared[tap][threadIdx.x];
        sum = turn == 0 ? sums[tap] : Pair{sum.first + sums[tap].first, sum.second + sums[tap].second};
      }
    }
    __syncthreads();
  }
  if (!is_channel) return;
  for (int tap = threadIdx.y; tap < P::kTaps; tap += blockDim.y)
    *reinterpret_cast<Packed<float>*>(partials + (static_cast<int64_t>(blockIdx.x) * P::kTaps + tap) * shape.channels + channel) =
        packed<float>(shared[tap][threadIdx.x]);
}

// Adds the blocks' sums of one tap and channel, which lie `taps * channels` apart, in parts of which each thread takes one.
template <typename T>
__global__ void finish_taps(const float* __restrict__ partials, int count, int taps, int channels, T* grad_weight) {
  __shared__ double shared[kFinishParts][kFinishLanes];
  const int at = blockIdx.x * kFinishLanes + threadIdx.x, all = taps * channels;
  double sum = 0.0;
  if (at < all) {
#pragma unroll 8
    for (int i = threadIdx.y; i < count; i += kFinishParts) sum += partials[static_cast<int64_t>(i) * all + at];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || at >= all) return;
  for (int part = 1; part < kFinishParts; ++part) sum += shared[part][threadIdx.x];
  grad_weight[at % channels * taps + at / channels] = from_float<T>(static_cast<float>(sum));
}

// The kernels are templates over type and side; this picks the instance. `call` takes (T*, a constant).
template <typename Call>
void with_types(const Depthwise& shape, const Call& call) {
  with_type(shape.type, [&](auto* type) {
    switch (shape.side) {
      case kSmallFilter: return call(type, std::integral_constant<int, kSmallFilter>());
      case kMiddleFilter: return call(type, std::integral_constant<int, kMiddleFilter>());
      case kLargeFilter: return call(type, std::integral_constant<int, kLargeFilter>());
    }
  });
}

// Blocks that share the tiles, of which each thread of a block takes one at a time.
template <int kSide>
int blocks_of(const Depthwise& shape, const Lanes& lanes, int multiprocessors) {
  using P = Plan<kSide>;
  const int across = (shape.width + P::kColumns - 1) / P::kColumns, down = (shape.height + P::kRows - 1) / P::kRows;
  const int tiles = shape.images * across * down, each = kThreads / lanes.lanes;
  return std::max(std::min((tiles + each - 1) / each, multiprocessors * P::kBlocks / lanes.blocks), 1);
}

}  // namespace

void depthwise(const Depthwise& shape, Rows x, const void* weight, Rows y, bool turned, int multiprocessors, cudaStream_t stream) {
  const Lanes lanes(shape.channels);
  const dim3 threads(lanes.lanes, kThreads / lanes.lanes);
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kSide = decltype(side)::value;
    const dim3 blocks(blocks_of<kSide>(shape, lanes, multiprocessors), lanes.blocks);
    depthwise_kernel<T, kSide>
        <<<blocks, threads, 0, stream>>>(static_cast<const T*>(x.data), static_cast<int>(x.stride), static_cast<const T*>(weight),
                                         static_cast<T*>(y.data), static_cast<int>(y.stride), shape, turned);
  });
}

void depthwise_planes(const Depthwise& shape, const void* x, int64_t image_stride, const void* weight, const void* bias, void* y,
                      cudaStream_t stream) {
  constexpr int kRows = kPlaneThreads * kPlaneRows;
  const int across = (shape.width + kPlaneColumns - 1) / kPlaneColumns, down = (shape.height + kRows - 1) / kRows;
  const dim3 blocks(across * down * shape.images * shape.channels), threads(kPlaneColumns, kPlaneThreads);
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    planes_kernel<T, decltype(side)::value><<<blocks, threads, 0, stream>>>(
        static_cast<const T*>(x), image_stride, static_cast<const T*>(weight), static_cast<const T*>(bias), static_cast<T*>(y), shape, across,
        down);
  });
}

int partial_sums(const Depthwise& shape, int multiprocessors) {
  const Lanes lanes(shape.channels);
  int count = 0;
  with_types(shape, [&](auto*, auto side) { count = blocks_of<decltype(side)::value>(shape, lanes, multiprocessors); });
  return count;
}

void weight_gradient(const Depthwise& shape, Rows x, Rows grad_y, void* grad_weight, float* partials, int count, cudaStream_t stream) {
  const Lanes lanes(shape.channels);
  const int taps = shape.side * shape.side;
  const dim3 blocks(count, lanes.blocks), threads(lanes.lanes, kThreads / lanes.lanes);
  const int finish_blocks = (taps * shape.channels + kFinishLanes - 1) / kFinishLanes;
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    sum_taps<T, decltype(side)::value>
        <<<blocks, threads, 0, stream>>>(static_cast<const T*>(x.data), static_cast<int>(x.stride), static_cast<const T*>(grad_y.data),
                                         static_cast<int>(grad_y.stride), shape, partials);
    finish_taps<<<finish_blocks, dim3(kFinishLanes, kFinishParts), 0, stream>>>(partials, count, taps, shape.channels,
                                                                               static_cast<T*>(grad_weight));
  });
}

}  // namespace yolov12_kernels
