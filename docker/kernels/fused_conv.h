// SPDX-License-Identifier: AGPL-3.0-or-later
// A convolution of a network in inference, with what follows it: y = act(conv(x) + bias), or residual + that, as one kernel.
//
// cuDNN's convolutions return without the bias; adding it, SiLU and a shortcut's sum each read and write the whole output once more. At batch 1 a
// network has hundreds of kernels that each take a few microseconds whatever they do, so what counts is how many there are.
//
// An implicit matrix product by tensor cores over NHWC tensors: rows are pixels of y, columns its channels, and what is summed over are the filter's
// taps times the channels of x. Sums are float32, over 16 at a time in one order that no tile changes, and rounded once at the end: equal inputs
// give equal bits. x, y and the residual may each be some channels of wider tensors, so that dividing and concatenating channels copy nothing.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "pixels.h"

namespace yolov12_kernels {

struct FusedConv {
  int images;
  int height, width;  // of x
  int in_channels;    // multiples of 8
  int out_channels;
  int side;    // of the filter: 1 or 3, with side / 2 zeros around
  int stride;  // 1 or 2
  Type type;   // kHalf or kBFloat16
  Activation activation;

  int out_height() const { return (height - 1) / stride + 1; }
  int out_width() const { return (width - 1) / stride + 1; }
  int depth() const { return side * side * in_channels; }
  int64_t pixels() const { return static_cast<int64_t>(images) * out_height() * out_width(); }
};

// What one block makes of y.
struct Tile {
  int pixels;
  int channels;
  int stages;  // parts of the sum whose numbers are on their way or in use
  int threads;
};

constexpr int kDepthOfStage = 64;  // of the sum: 128 bytes of each pixel and of each channel's filter

// The small ones are for maps whose blocks are too few to fill a GPU: each waits for its own loads, so many of them are on their way.
constexpr Tile kTiles[] = {{32, 32, 6, 128},  {64, 32, 5, 128}, {64, 64, 4, 128},  {128, 16, 3, 128},
                           {128, 32, 3, 128}, {128, 64, 3, 128}, {128, 128, 3, 256}};
constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);
constexpr int kFirstTall = 3;  // from here on in the order of their channels

constexpr int kPadding = 8;         // floats after each row of sums, so that eight rows of a column lie in different banks

constexpr int steps_of(int depth) { return (depth + kDepthOfStage - 1) / kDepthOfStage; }

// Of a block, whose stages, no more than the sum has, make room for the sums. The less, the more blocks are on a multiprocessor.
constexpr int shared_bytes(const Tile& tile, int steps) {
  const int stages = (tile.pixels + tile.channels) * kDepthOfStage * 2 * (steps < tile.stages ? steps : tile.stages);
  const int sums = tile.pixels * (tile.channels + kPadding) * 4;
  return stages > sums ? stages : sums;
}

// Which of the tiles is expected to take least.
int tile_for(const FusedConv& shape, int multiprocessors);

// `weight` is (out_channels, side, side, in_channels), `bias` has a number of the same type for each channel, `residual.data` may be null.
// `early`: on GPUs that can (sm_90 on), the kernel comes onto the multiprocessors while the one before it on the stream still runs, and waits there
// for its end, which hides what a launch takes. False where the GPU can not.
void fused_conv(const FusedConv& shape, int tile, Pixels x, const void* weight, const void* bias, Pixels residual, Pixels y, bool early,
                cudaStream_t stream);

}  // namespace yolov12_kernels
