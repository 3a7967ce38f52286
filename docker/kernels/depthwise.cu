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
constexpr int kBlocksPerMultiprocessor = 16;
constexpr int kFinishLanes = 32, kFinishParts = 16;

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

// A row of an image, as one thread sees it: its channels of the pixels from `first` on, zero beyond the image.
template <typename T, int kCount>
__device__ void load_row(float (&values)[kCount][kChannels], const T* row, int64_t stride, int first, int width) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = first + i;
    if (column >= 0 && column < width) {
      const Pixel<T> pixel = *reinterpret_cast<const Pixel<T>*>(row + column * stride);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) values[i][c] = to_float(pixel.values[c]);
    } else {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) values[i][c] = 0.0f;
    }
  }
}

template <typename T, int kSide>
__global__ void __launch_bounds__(kThreads) depthwise_kernel(const T* __restrict__ x, int64_t x_stride, const T* __restrict__ weight,
                                                             T* __restrict__ y, int64_t y_stride, Depthwise shape, bool turned) {
  constexpr int kTaps = kSide * kSide, kMargin = kSide / 2;
  __shared__ Pixel<T> filter[kTaps * kMostLanes];
  const int lanes = blockDim.x, block_channels = lanes * kChannels, first_channel = blockIdx.y * block_channels;
  T* const filter_values = filter[0].values;
  for (int i = threadIdx.y * lanes + threadIdx.x; i < kTaps * block_channels; i += lanes * blockDim.y) {
    const int channel = i / kTaps, tap = i % kTaps;
    if (first_channel + channel < shape.channels)
      filter_values[(turned ? kTaps - 1 - tap : tap) * block_channels + channel] = weight[(first_channel + channel) * kTaps + tap];
  }
  __syncthreads();
  const int channel = first_channel + threadIdx.x * kChannels;
  if (channel >= shape.channels) return;
  const int tiles_in_row = (shape.width + kPixels - 1) / kPixels;
  const int tiles = shape.images * shape.height * tiles_in_row;
  for (int tile = blockIdx.x * blockDim.y + threadIdx.y; tile < tiles; tile += gridDim.x * blockDim.y) {
    const int line = tile / tiles_in_row, column = (tile - line * tiles_in_row) * kPixels, row = line % shape.height;
    float sums[kPixels][kChannels] = {};
#pragma unroll(kSide == kSmallFilter ? kSmallFilter : 1)
    for (int r = 0; r < kSide; ++r) {
      const int from = row + r - kMargin;
      if (from < 0 || from >= shape.height) continue;
      float values[kPixels + kSide - 1][kChannels];
      load_row(values, x + static_cast<int64_t>(line + r - kMargin) * shape.width * x_stride + channel, x_stride, column - kMargin,
               shape.width);
#pragma unroll
      for (int s = 0; s < kSide; ++s) {
        const Pixel<T> tap = filter[(r * kSide + s) * lanes + threadIdx.x];
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          const float factor = to_float(tap.values[c]);
#pragma unroll
          for (int p = 0; p < kPixels; ++p) sums[p][c] += values[p + s][c] * factor;
        }
      }
    }
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

// Sums over the lines of one block, for the taps of one row of the filter in each thread.
template <typename T, int kSide>
__global__ void sum_taps(const T* __restrict__ x, int64_t x_stride, const T* __restrict__ grad_y, int64_t grad_stride, Depthwise shape,
                         float* partials) {
  constexpr int kMargin = kSide / 2;
  const int channel = (blockIdx.y * blockDim.x + threadIdx.x) * kChannels, r = threadIdx.y;
  if (channel >= shape.channels) return;
  const int lines = shape.images * shape.height, each = (lines + gridDim.x - 1) / gridDim.x;
  const int first = blockIdx.x * each, last = min(first + each, lines);
  float sums[kSide][kChannels] = {};
  for (int line = first; line < last; ++line) {
    const int from = line % shape.height + r - kMargin;
    if (from < 0 || from >= shape.height) continue;
    const T* const row = x + static_cast<int64_t>(line + r - kMargin) * shape.width * x_stride + channel;
    const T* const grad_row = grad_y + static_cast<int64_t>(line) * shape.width * grad_stride + channel;
    for (int column = 0; column < shape.width; column += kPixels) {
      float values[kPixels + kSide - 1][kChannels], grads[kPixels][kChannels];
      load_row(values, row, x_stride, column - kMargin, shape.width);
      load_row(grads, grad_row, grad_stride, column, shape.width);
#pragma unroll
      for (int s = 0; s < kSide; ++s)
#pragma unroll
        for (int p = 0; p < kPixels; ++p)
#pragma unroll
          for (int c = 0; c < kChannels; ++c) sums[s][c] += grads[p][c] * values[p + s][c];
    }
  }
  float* const to = partials + (static_cast<int64_t>(blockIdx.x) * kSide + r) * kSide * shape.channels + channel;
#pragma unroll
  for (int s = 0; s < kSide; ++s)
#pragma unroll
    for (int c = 0; c < kChannels; ++c) to[static_cast<int64_t>(s) * shape.channels + c] = sums[s][c];
}

// Adds the blocks' sums of one tap and channel, which lie `taps * channels` apart, in parts of which each thread takes one.
template <typename T>
__global__ void finish_taps(const float* __restrict__ partials, int blocks, int taps, int channels, T* grad_weight) {
  __shared__ double shared[kFinishParts][kFinishLanes];
  const int at = blockIdx.x * kFinishLanes + threadIdx.x, all = taps * channels;
  double sum = 0.0;
  if (at < all) {
#pragma unroll 8
    for (int block = threadIdx.y; block < blocks; block += kFinishParts) sum += partials[static_cast<int64_t>(block) * all + at];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || at >= all) return;
  for (int part = 1; part < kFinishParts; ++part) sum += shared[part][threadIdx.x];
  grad_weight[at % channels * taps + at / channels] = from_float<T>(static_cast<float>(sum));
}

// The kernels are templates over type and side; this picks the instance. `call` takes (T*, a constant).
template <typename T, typename Call>
void with_side(int side, const Call& call) {
  switch (side) {
    case kSmallFilter: return call(static_cast<T*>(nullptr), std::integral_constant<int, kSmallFilter>());
    case kMiddleFilter: return call(static_cast<T*>(nullptr), std::integral_constant<int, kMiddleFilter>());
    case kLargeFilter: return call(static_cast<T*>(nullptr), std::integral_constant<int, kLargeFilter>());
  }
}

template <typename Call>
void with_types(const Depthwise& shape, const Call& call) {
  switch (shape.type) {
    case Type::kFloat: return with_side<float>(shape.side, call);
    case Type::kHalf: return with_side<__half>(shape.side, call);
    case Type::kBFloat16: return with_side<__nv_bfloat16>(shape.side, call);
  }
}

}  // namespace

void depthwise(const Depthwise& shape, Rows x, const void* weight, Rows y, bool turned, int multiprocessors, cudaStream_t stream) {
  const Lanes lanes(shape.channels);
  const dim3 threads(lanes.lanes, kThreads / lanes.lanes);
  const int tiles = shape.images * shape.height * ((shape.width + kPixels - 1) / kPixels), each = threads.y;
  const int most = multiprocessors * kBlocksPerMultiprocessor / lanes.blocks;
  const dim3 blocks(std::max(std::min((tiles + each - 1) / each, most), 1), lanes.blocks);
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    depthwise_kernel<T, decltype(side)::value><<<blocks, threads, 0, stream>>>(
        static_cast<const T*>(x.data), x.stride, static_cast<const T*>(weight), static_cast<T*>(y.data), y.stride, shape, turned);
  });
}

int weight_gradient_blocks(const Depthwise& shape, int multiprocessors) {
  const int most = multiprocessors * kBlocksPerMultiprocessor / Lanes(shape.channels).blocks;
  return std::max(std::min(shape.images * shape.height, most), 1);
}

void weight_gradient(const Depthwise& shape, Rows x, Rows grad_y, void* grad_weight, float* partials, int blocks, cudaStream_t stream) {
  const Lanes lanes(shape.channels);
  const int taps = shape.side * shape.side, finish_blocks = (taps * shape.channels + kFinishLanes - 1) / kFinishLanes;
  with_types(shape, [&](auto* type, auto side) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kSide = decltype(side)::value;
    sum_taps<T, kSide><<<dim3(blocks, lanes.blocks), dim3(lanes.lanes, kSide), 0, stream>>>(
        static_cast<const T*>(x.data), x.stride, static_cast<const T*>(grad_y.data), grad_y.stride, shape, partials);
    finish_taps<<<finish_blocks, dim3(kFinishLanes, kFinishParts), 0, stream>>>(partials, blocks, taps, shape.channels,
                                                                               static_cast<T*>(grad_weight));
  });
}

}  // namespace yolov12_kernels
