// SPDX-License-Identifier: AGPL-3.0-or-later
#include "fused_conv.h"

#include <limits>

#include "finish.cuh"
#include "pipeline.cuh"
#include "tensor_cores.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kLoads = kDepthOfStage / kNumbersOfLoad;  // of a row of a stage
constexpr int kMatrix = 16;                       // rows of y, and depth, of one multiplication
constexpr int kMostInFlight = 4;                  // residuals that a thread asks for before it needs the first

// What a kernel is told.
struct Problem {
  int pixels;  // of y
  int images;
  int image_pixels;
  int out_width;
  bool is_even;  // whether each pixel of y, and of the residual, is as far from the one before as any other, also where an image begins
  int height, width;
  int in_loads;  // for each pixel of x
  int out_channels;
  int taps, side, stride;
  int depth;
  Pixels x, residual, y;
  const void* weight;
  const void* bias;
  bool silu;
};

// Where load `load` of row `row` of a stage lies, in loads. The rows of a matrix that are read at once, 128 bytes apart, would lie in the same banks.
__device__ inline int place_of(int row, int load) { return row * kLoads + (load ^ (row % kLoads)); }

// A thread's part of filling stages: one load of every row that is its own, a step further with each stage.
template <typename T, int kPixels, int kChannels, int kThreads>
class Filler {
  static constexpr int kRows = kThreads / kLoads;  // that the threads of a block fill at once
  static constexpr int kOfX = kPixels / kRows;
  static constexpr int kOfWeight = kChannels / kRows;
  static_assert(kPixels % kRows == 0 && kChannels % kRows == 0);

 public:
  __device__ Filler(const Problem& of, int first_pixel, int first_channel) : of(of), row(threadIdx.x / kLoads), load(threadIdx.x % kLoads) {
#pragma unroll
    for (int i = 0; i < kOfX; ++i) {
      const int pixel = first_pixel + row + i * kRows;
      // A division takes as long as twenty other instructions, and a shallow sum is not much more than that.
      const int image = of.images == 1 ? 0 : pixel / of.image_pixels, inside = pixel - image * of.image_pixels;
      const int out_line = of.image_pixels == of.out_width ? 0 : inside / of.out_width, out_column = inside - out_line * of.out_width;
      const int line = out_line * of.stride - of.side / 2, column = out_column * of.stride - of.side / 2;
      lines[i] = pixel < of.pixels ? line : kNoLine;
      columns[i] = column;
      begins[i] = static_cast<int>(image * of.x.image + (line * of.width + column) * of.x.pixel);
    }
    channel = first_channel + row;
    tap = 0;
    in_tap = load;
    settle();
  }

  // Copies a stage, and goes on to the next.
  __device__ void fill(unsigned char* stage) {
    const int down = of.side == 1 ? 0 : tap / 3, right = tap - 3 * down;
    const bool is_inside = tap < of.taps;
    const int offset = static_cast<int>((down * of.width + right) * of.x.pixel) + in_tap * kNumbersOfLoad;
    const T* const x = static_cast<const T*>(of.x.data);
    Vector<T>* const rows = reinterpret_cast<Vector<T>*>(stage);
#pragma unroll
    for (int i = 0; i < kOfX; ++i) {
      const bool is_there = is_inside && static_cast<unsigned>(lines[i] + down) < static_cast<unsigned>(of.height) &&
                            static_cast<unsigned>(columns[i] + right) < static_cast<unsigned>(of.width);
      begin_copy<true>(rows + place_of(row + i * kRows, load), is_there ? x + begins[i] + offset : x, is_there ? kLoadBytes : 0);
    }
    const T* const weight = static_cast<const T*>(of.weight);
    const int in_filter = (tap * of.in_loads + in_tap) * kNumbersOfLoad;
#pragma unroll
    for (int i = 0; i < kOfWeight; ++i) {
      const int filter = channel + i * kRows;
      const bool is_there = is_inside && filter < of.out_channels;
      begin_copy<false>(rows + place_of(kPixels + row + i * kRows, load), is_there ? weight + filter * of.depth + in_filter : weight,
                        is_there ? kLoadBytes : 0);
    }
    in_tap += kLoads;
    settle();
  }

 private:
  static constexpr int kNoLine = std::numeric_limits<int>::min() / 2;  // none that a tap reaches from there is inside

  __device__ void settle() {
    while (in_tap >= of.in_loads && tap < of.taps) {
      in_tap -= of.in_loads;
      ++tap;
    }
  }

  const Problem& of;
  const int row, load;
  int lines[kOfX], columns[kOfX], begins[kOfX];
  int channel, tap, in_tap;
};

struct alignas(8) Pair {
  float values[2];
};

using Eight = Vector<float>[2];

// Warps lie `kDown` below each other and as many side by side as there are left.
template <typename T, int kPixels, int kChannels, int kStages, int kThreads, int kDown>
__global__ void __launch_bounds__(kThreads) fused_conv_kernel(const __grid_constant__ Problem of) {
  constexpr int kAcross = kThreads / 32 / kDown;
  constexpr int kRows = kPixels / kDown, kColumns = kChannels / kAcross;  // of a warp
  constexpr int kTall = kRows / kMatrix, kWide = kColumns / 8;            // multiplications of a warp
  static_assert(kRows % kMatrix == 0 && kColumns % kMatrix == 0);
  constexpr int kStageBytes = (kPixels + kChannels) * kDepthOfStage * sizeof(T);

  unsigned char* const shared = shared_begin();
  const int first_pixel = blockIdx.x * kPixels, first_channel = blockIdx.y * kChannels;
  Filler<T, kPixels, kChannels, kThreads> filler(of, first_pixel, first_channel);
  const int steps = steps_of(of.depth);
  // Of y, a thread finishes the same channels of several pixels.
  constexpr int kGroups = kChannels / kNumbersOfLoad, kPixelsAtOnce = kThreads / kGroups;
  const int column = threadIdx.x % kGroups * kNumbersOfLoad, channel = first_channel + column;
  wait_for_kernels_before();  // the bias, too, may have been made by one of them
  let_next_kernel_begin();
  Vector<T> bias{};
  if (channel < of.out_channels) bias = *reinterpret_cast<const Vector<T>*>(static_cast<const T*>(of.bias) + channel);
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) filler.fill(shared + step * kStageBytes);
    end_group();
  }

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int top = warp % kDown * kRows, left = warp / kDown * kColumns;
  float sums[kTall][kWide][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_groups<kStages - 2>();
    __syncthreads();  // this stage is there for all, and nobody reads the one before it any more
    if (step + kStages - 1 < steps) filler.fill(shared + (step + kStages - 1) % kStages * kStageBytes);
    end_group();
    const Vector<T>* const rows = reinterpret_cast<const Vector<T>*>(shared + step % kStages * kStageBytes);
    const int left_over = of.depth - step * kDepthOfStage;
#pragma unroll
    for (int k = 0; k < kDepthOfStage / kMatrix; ++k) {
      if (k * kMatrix >= left_over) break;
      uint32_t a[kTall][4], b[kWide / 2][4];
#pragma unroll
      for (int i = 0; i < kTall; ++i) load_matrices(a[i], rows + place_of(top + i * kMatrix + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int j = 0; j < kWide / 2; ++j)
        load_matrices(b[j], rows + place_of(kPixels + left + j * kMatrix + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < kTall; ++i)
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
          const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          multiply_add<T>(sums[i][j], a[i], pair);
        }
    }
  }
  wait_for_groups<0>();
  __syncthreads();  // nobody reads a stage any more: sums take their place

  constexpr int kWidth = kChannels + kPadding;
  float* const tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < kTall; ++i)
#pragma unroll
    for (int j = 0; j < kWide; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = top + i * kMatrix + half * 8 + lane / 4, at = left + j * 8 + lane % 4 * 2;
        *reinterpret_cast<Pair*>(tile + row * kWidth + at) = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
      }
  __syncthreads();
  if (channel >= of.out_channels) return;
  constexpr int kTimes = kPixels / kPixelsAtOnce, kInFlight = kTimes < kMostInFlight ? kTimes : kMostInFlight;
  static_assert(kPixels % kPixelsAtOnce == 0 && kTimes % kInFlight == 0);
#pragma unroll 1
  for (int begin = 0; begin < kTimes; begin += kInFlight) {
    Vector<T> residuals[kInFlight] = {};
    int images[kInFlight], insides[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int pixel = first_pixel + threadIdx.x / kGroups + (begin + i) * kPixelsAtOnce;
      images[i] = of.is_even ? 0 : pixel / of.image_pixels;
      insides[i] = pixel - images[i] * of.image_pixels;
      if (of.residual.data != nullptr && pixel < of.pixels) residuals[i] = *vector_at<T>(of.residual, images[i], insides[i], channel);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int row = threadIdx.x / kGroups + (begin + i) * kPixelsAtOnce;
      if (first_pixel + row >= of.pixels) continue;
      *vector_at<T>(of.y, images[i], insides[i], channel) =
          finished<T>(*reinterpret_cast<const Eight*>(tile + row * kWidth + column), bias, of.silu, residuals[i]);
    }
  }
}

constexpr int kSharedOfAnyBlock = 99 * 1024;  // what each GPU from sm_80 on allows, if it is asked for

template <typename T, int kIndex, int kDown>
void run(const Problem& of, bool early, cudaStream_t stream) {
  constexpr Tile tile = kTiles[kIndex];
  static_assert(shared_bytes(tile, tile.stages) <= kSharedOfAnyBlock);
  const dim3 blocks((of.pixels + tile.pixels - 1) / tile.pixels, (of.out_channels + tile.channels - 1) / tile.channels);
  launch(fused_conv_kernel<T, tile.pixels, tile.channels, tile.stages, tile.threads, kDown>, blocks, tile.threads,
         shared_bytes(tile, steps_of(of.depth)), early, stream, of);
}

template <typename T>
void run_tile(int tile, const Problem& of, bool early, cudaStream_t stream) {
  switch (tile) {
    case 0: return run<T, 0, 2>(of, early, stream);
    case 1: return run<T, 1, 2>(of, early, stream);
    case 2: return run<T, 2, 2>(of, early, stream);
    case 3: return run<T, 3, 4>(of, early, stream);
    case 4: return run<T, 4, 4>(of, early, stream);
    case 5: return run<T, 5, 2>(of, early, stream);
    case 6: return run<T, 6, 2>(of, early, stream);
  }
}
static_assert(kTileCount == 7);

// From what each tile took for the shapes of yolov12n at batch 1 and of yolov12s at batch 32 on an H200 (docs/benchmarks.md): numbers of y for each
// multiprocessor up to which blocks that are many and small take least, and those of middle size.
constexpr int64_t kFewOutputs = 4096, kSomeOutputs = 8192;

}  // namespace

int tile_for(const FusedConv& shape, int multiprocessors) {
  const int channels = shape.out_channels;
  const int64_t outputs_each = shape.pixels() * channels / multiprocessors;
  if (outputs_each <= kFewOutputs) return 0;
  if (outputs_each <= kSomeOutputs) return channels <= 32 ? 1 : 2;
  int widest = kFirstTall;  // of the tall ones, the first that has all channels
  while (widest < kTileCount - 1 && kTiles[widest].channels < channels) ++widest;
  return widest;
}

void fused_conv(const FusedConv& shape, int tile, Pixels x, const void* weight, const void* bias, Pixels residual, Pixels y, bool early,
                cudaStream_t stream) {
  const int out_pixels = shape.out_height() * shape.out_width(), pixels = static_cast<int>(shape.pixels());
  const auto is_even = [&](const Pixels& of, int image_pixels) { return shape.images == 1 || of.image == image_pixels * of.pixel; };
  Problem of{pixels,
             shape.images,
             out_pixels,
             shape.out_width(),
             is_even(y, out_pixels) && (residual.data == nullptr || is_even(residual, out_pixels)),
             shape.height,
             shape.width,
             shape.in_channels / kNumbersOfLoad,
             shape.out_channels,
             shape.side * shape.side,
             shape.side,
             shape.stride,
             shape.depth(),
             x,
             residual,
             y,
             weight,
             bias,
             shape.activation == Activation::kSiLU};
  if (shape.side == 1 && shape.stride == 1 && of.is_even && is_even(x, out_pixels)) {  // knows no rows and no images: one row will do
    of.images = of.height = 1;
    of.image_pixels = of.width = of.out_width = pixels;
  }
  if (shape.type == Type::kHalf) return run_tile<__half>(tile, of, early, stream);
  run_tile<__nv_bfloat16>(tile, of, early, stream);
}

}  // namespace yolov12_kernels
