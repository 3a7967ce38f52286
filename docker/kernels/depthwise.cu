// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <type_traits>

#include "depthwise.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kChannels = 4;  // of one thread
constexpr int kPixels = 4;    // side by side, of one thread: each value that is read serves up to a filter's side of them
constexpr int kThreads = 128;
constexpr int kMostLanes = 32;  // threads side by side over channels: 128 channels, so that a filter of 7 takes 25 kB of shared memory at most
constexpr int kBlocksPerMultiprocessor = 8;  // as many as fit at once, here and below: a few more would run alone at the end
constexpr int kWalkers = 224;  // threads of a block for the gradient of the weight: 32 side by side for each row of the largest filter
constexpr int kMostWalkersOfBlock = 64;  // threads in a block's third dimension, of any GPU
constexpr int kFinishLanes = 32, kFinishParts = 16;
constexpr int kPlaneColumns = 32, kPlaneThreads = 4;  // of a block: side by side, and one below the other
constexpr int kPlaneRows = 4;                         // of one thread: each value that is read serves up to a filter's side of them

// How many blocks for the gradient of the weight fit onto a multiprocessor at once.
constexpr int walker_blocks(int side) { return side == kSmallFilter ? 3 : 2; }

// One load or store of a thread's channels.
template <typename T>
struct alignas(kChannels * sizeof(T)) Pixel {
  T values[kChannels];
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

// A thread's channels of the pixels from `first` on of a row; zero beyond the image, which `kInside` says they are not.
template <bool kInside, typename T, int kCount>
__device__ void load_row(Pixel<T> (&pixels)[kCount], const T* row, int stride, int first, int width) {
  const T* const begin = row + first * stride;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = first + i;
    if (kInside || (column >= 0 && column < width)) {
      pixels[i] = *reinterpret_cast<const Pixel<T>*>(begin + i * stride);
    } else {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) pixels[i].values[c] = from_float<T>(0.0f);
    }
  }
}

template <typename T>
__device__ void to_floats(float (&values)[kChannels], const Pixel<T>& pixel) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) values[c] = to_float(pixel.values[c]);
}

// Adds to a tile's sums. `kInside`: no column that it reads is beyond the image, nor, for the smallest filter, a row.
template <bool kInside, typename T, int kSide>
__device__ void add_products(float (&sums)[kPixels][kChannels], const T* x, int stride, const Pixel<float>* filter, const Depthwise& shape,
                             int line, int row, int column) {
  constexpr int kMargin = kSide / 2;
  constexpr bool kAllRows = kInside && kSide == kSmallFilter;
  const int first = kAllRows ? 0 : max(kMargin - row, 0), last = kAllRows ? kSide : min(kSide, shape.height + kMargin - row);
#pragma unroll(kAllRows ? kSide : 1)
  for (int r = first; r < last; ++r) {
    Pixel<T> pixels[kPixels + kSide - 1];
    load_row<kInside>(pixels, x + static_cast<int64_t>(line + r - kMargin) * shape.width * stride, stride, column - kMargin, shape.width);
    float values[kPixels + kSide - 1][kChannels];
#pragma unroll
    for (int i = 0; i < kPixels + kSide - 1; ++i) to_floats(values[i], pixels[i]);
#pragma unroll
    for (int s = 0; s < kSide; ++s) {
      const Pixel<float> tap = filter[(r * kSide + s) * blockDim.x];
#pragma unroll
      for (int c = 0; c < kChannels; ++c)
#pragma unroll
        for (int p = 0; p < kPixels; ++p) sums[p][c] += values[p + s][c] * tap.values[c];
    }
  }
}

template <typename T, int kSide>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    depthwise_kernel(const T* __restrict__ x, int x_stride, const T* __restrict__ weight, T* __restrict__ y, int y_stride, Depthwise shape,
                     bool turned) {
  constexpr int kTaps = kSide * kSide, kMargin = kSide / 2;
  __shared__ Pixel<float> filter[kTaps * kMostLanes];
  const int lanes = blockDim.x, block_channels = lanes * kChannels, first_channel = blockIdx.y * block_channels;
  float* const filter_values = filter[0].values;
  for (int i = threadIdx.y * lanes + threadIdx.x; i < kTaps * block_channels; i += lanes * blockDim.y) {
    const int channel = i / kTaps, tap = i % kTaps;
    if (first_channel + channel < shape.channels)
      filter_values[(turned ? kTaps - 1 - tap : tap) * block_channels + channel] = to_float(weight[(first_channel + channel) * kTaps + tap]);
  }
  __syncthreads();
  const int channel = first_channel + threadIdx.x * kChannels;
  if (channel >= shape.channels) return;
  const int tiles_in_row = (shape.width + kPixels - 1) / kPixels;
  const int tiles = shape.images * shape.height * tiles_in_row;
  for (int tile = blockIdx.x * blockDim.y + threadIdx.y; tile < tiles; tile += gridDim.x * blockDim.y) {
    const int line = tile / tiles_in_row, column = (tile - line * tiles_in_row) * kPixels, row = line % shape.height;
    bool is_inside = column >= kMargin && column + kPixels + kMargin <= shape.width;
    if (kSide == kSmallFilter) is_inside = is_inside && row >= kMargin && row + kMargin < shape.height;
    float sums[kPixels][kChannels] = {};
    if (is_inside)
      add_products<true, T, kSide>(sums, x + channel, x_stride, filter + threadIdx.x, shape, line, row, column);
    else
      add_products<false, T, kSide>(sums, x + channel, x_stride, filter + threadIdx.x, shape, line, row, column);
    T* const to = y + static_cast<int64_t>(line) * shape.width * y_stride + channel;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      if (column + p >= shape.width) break;
      Pixel<T> pixel;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) pixel.values[c] = from_float<T>(sums[p][c]);
      *reinterpret_cast<Pixel<T>*>(to + (column + p) * y_stride) = pixel;
    }
  }
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

// Sums over some of the lines, for the taps of one row of the filter in each thread, which walks along the lines with a window of x.
template <typename T, int kSide>
__global__ void __launch_bounds__(kWalkers, walker_blocks(kSide))
    sum_taps(const T* __restrict__ x, int x_stride, const T* __restrict__ grad_y, int grad_stride, Depthwise shape, float* partials) {
  constexpr int kMargin = kSide / 2;
  const int channel = (blockIdx.y * blockDim.x + threadIdx.x) * kChannels, r = threadIdx.y;
  if (channel >= shape.channels) return;
  const int walkers = gridDim.x * blockDim.z, walker = blockIdx.x * blockDim.z + threadIdx.z;
  const int lines = shape.images * shape.height, each = (lines + walkers - 1) / walkers;
  const int first = walker * each, last = min(first + each, lines);
  float sums[kSide][kChannels] = {};
  for (int line = first; line < last; ++line) {
    const int from = line % shape.height + r - kMargin;
    if (from < 0 || from >= shape.height) continue;
    const T* const row = x + static_cast<int64_t>(line + r - kMargin) * shape.width * x_stride + channel;
    const T* const grad_row = grad_y + static_cast<int64_t>(line) * shape.width * grad_stride + channel;
    Pixel<T> before[kSide - 1];
    load_row<false>(before, row, x_stride, -kMargin, shape.width);
    // The next tile is on its way while the one before is worked on: what it adds to the window, and its gradient.
    Pixel<T> next_x[kPixels], next_grad[kPixels];
    load_row<false>(next_x, row, x_stride, kMargin, shape.width);
    load_row<false>(next_grad, grad_row, grad_stride, 0, shape.width);
    float window[kPixels + kSide - 1][kChannels];
#pragma unroll
    for (int i = 0; i < kSide - 1; ++i) to_floats(window[i], before[i]);
#pragma unroll 1
    for (int column = 0; column < shape.width; column += kPixels) {
      float grads[kPixels][kChannels];
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        to_floats(window[kSide - 1 + p], next_x[p]);
        to_floats(grads[p], next_grad[p]);
      }
      load_row<false>(next_x, row, x_stride, column + kPixels + kMargin, shape.width);
      load_row<false>(next_grad, grad_row, grad_stride, column + kPixels, shape.width);
#pragma unroll
      for (int s = 0; s < kSide; ++s)
#pragma unroll
        for (int p = 0; p < kPixels; ++p)
#pragma unroll
          for (int c = 0; c < kChannels; ++c) sums[s][c] += grads[p][c] * window[p + s][c];
#pragma unroll
      for (int i = 0; i < kSide - 1; ++i)
#pragma unroll
        for (int c = 0; c < kChannels; ++c) window[i][c] = window[i + kPixels][c];
    }
  }
  float* const to = partials + (static_cast<int64_t>(walker) * kSide + r) * kSide * shape.channels + channel;
#pragma unroll
  for (int s = 0; s < kSide; ++s)
#pragma unroll
    for (int c = 0; c < kChannels; ++c) to[static_cast<int64_t>(s) * shape.channels + c] = sums[s][c];
}

// Adds the walkers' sums of one tap and channel, which lie `taps * channels` apart, in parts of which each thread takes one.
template <typename T>
__global__ void finish_taps(const float* __restrict__ partials, int walkers, int taps, int channels, T* grad_weight) {
  __shared__ double shared[kFinishParts][kFinishLanes];
  const int at = blockIdx.x * kFinishLanes + threadIdx.x, all = taps * channels;
  double sum = 0.0;
  if (at < all) {
#pragma unroll 8
    for (int walker = threadIdx.y; walker < walkers; walker += kFinishParts) sum += partials[static_cast<int64_t>(walker) * all + at];
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

// Groups of threads in a block that walk along lines of their own, each with `side` rows of threads.
int walkers_of_block(const Lanes& lanes, int side) { return std::clamp(kWalkers / (lanes.lanes * side), 1, kMostWalkersOfBlock); }

}  // namespace

void depthwise(const Depthwise& shape, Rows x, const void* weight, Rows y, bool turned, int multiprocessors, cudaStream_t stream) {
  const Lanes lanes(shape.channels);
  const dim3 threads(lanes.lanes, kThreads / lanes.lanes);
  const int tiles = shape.images * shape.height * ((shape.width + kPixels - 1) / kPixels), each = threads.y;
  const int most = multiprocessors * kBlocksPerMultiprocessor / lanes.blocks;
  const dim3 blocks(std::max(std::min((tiles + each - 1) / each, most), 1), lanes.blocks);
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    depthwise_kernel<T, decltype(side)::value>
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

int walkers(const Depthwise& shape, int multiprocessors) {
  const Lanes lanes(shape.channels);
  const int in_block = walkers_of_block(lanes, shape.side), lines = shape.images * shape.height;
  const int most = multiprocessors * walker_blocks(shape.side) / lanes.blocks;
  return std::max(std::min((lines + in_block - 1) / in_block, most), 1) * in_block;
}

void weight_gradient(const Depthwise& shape, Rows x, Rows grad_y, void* grad_weight, float* partials, int walkers, cudaStream_t stream) {
  const Lanes lanes(shape.channels);
  const int in_block = walkers_of_block(lanes, shape.side), taps = shape.side * shape.side;
  const dim3 blocks(walkers / in_block, lanes.blocks), threads(lanes.lanes, shape.side, in_block);
  const int finish_blocks = (taps * shape.channels + kFinishLanes - 1) / kFinishLanes;
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    sum_taps<T, decltype(side)::value>
        <<<blocks, threads, 0, stream>>>(static_cast<const T*>(x.data), static_cast<int>(x.stride), static_cast<const T*>(grad_y.data),
                                         static_cast<int>(grad_y.stride), shape, partials);
    finish_taps<<<finish_blocks, dim3(kFinishLanes, kFinishParts), 0, stream>>>(partials, walkers, taps, shape.channels,
                                                                               static_cast<T*>(grad_weight));
  });
}

}  // namespace yolov12_kernels
