// SPDX-License-Identifier: AGPL-3.0-or-later
// The first convolution of a network, its stem: 3 channels in, filters of 3 x 3 pixels, stride 2, one zero around.
//
// cuDNN wants the three channels channels_last, pads them before it begins, and then takes several times as long as the bytes do
// (docs/performance.md). Here pictures are read as they lie, in planes or by pixel, and once:
//     stem                  reads x, writes y, channels_last
//     stem_weight_gradient  reads x and the gradient of y, writes the sums of each block; a second kernel adds those
// The gradient of x nobody needs in training: that is left to torch.
//
// float16 and bfloat16 are multiplied by tensor cores, of which an output pixel takes its 27 numbers as 16 pairs (stem.cu says which), float32 by
// ordinary multiply-adds. Sums are float32 and in a fixed order, so that equal inputs give equal bits; y is rounded once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

// The one stem that there is code for: a stem of another kind, with a filter of 6 or a picture of 4 channels, would be other code.
constexpr int kStemInputs = 3, kStemSide = 3, kStemRows = kStemInputs * kStemSide, kStemTaps = kStemRows * kStemSide;
constexpr int kStemGroup = 16;       // its channels come in groups of these
constexpr int kMostStemChannels = 96;  // of the largest scale of any model of ultralytics

// How many numbers lie between neighbours along each dimension of a tensor.
struct Strides {
  int64_t image, channel, row, column;
};

struct Stem {
  int images;
  int height, width;  // of x
  int channels;       // of y, a multiple of kStemGroup
  Type type;          // of all tensors
  int rows() const { return (height + 1) / 2; }
  int columns() const { return (width + 1) / 2; }
};

// Pictures, or weights: (images, 3, height, width), or (channels, 3, 3, 3).
struct Planes {
  const void* data;
  Strides strides;
};

// `bias` has one number for each channel, or is null. `y` is channels_last and without gaps.
void stem(const Stem& shape, const Planes& x, const Planes& weight, const void* bias, void* y, int multiprocessors, cudaStream_t stream);

// How many blocks share the pixels of all images.
int stem_blocks(const Stem& shape, int multiprocessors);

// `partials` is scratch memory for a float32 sum of each block, tap and channel. `grad_weight` lies as its strides say.
void stem_weight_gradient(const Stem& shape, const Planes& x, Rows grad_y, void* grad_weight, const Strides& weight_strides, float* partials,
                          int blocks, int multiprocessors, cudaStream_t stream);

}  // namespace yolov12_kernels
