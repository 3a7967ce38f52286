// SPDX-License-Identifier: AGPL-3.0-or-later
// Depthwise convolution: each channel with one small square filter of its own, stride 1, and as many zeros around as keep the size.
//
// cuDNN chooses kernels for each new shape of a depthwise convolution for hundreds of milliseconds, where one with all channels takes two to
// five; and its gradient of the input takes several times as long as the bytes do (docs/performance.md). Here nothing is chosen:
//     depthwise         reads x, writes y; with the filter turned round, reads the gradient of y and writes that of x
//     depthwise_planes  the same for NCHW tensors, as a network has them that is not trained; adds a bias where there is one
//     weight_gradient   reads x and the gradient of y, writes a sum for each of the filter's taps from each block; a second kernel adds those
// Products are summed in float32 and in a fixed order, so that equal inputs give equal bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

// Sides of a filter for which there is code.
constexpr int kSmallFilter = 3, kMiddleFilter = 5, kLargeFilter = 7;

struct Depthwise {
  int images;
  int height;
  int width;
  int channels;  // a multiple of elements_per_load(type), but for planes
  int side;      // of the filter
  Type type;
};

// `weight` is (channels, side, side), of the type of x and y. `turned`: the filter is read from its end, as the gradient of x needs it.
void depthwise(const Depthwise& shape, Rows x, const void* weight, Rows y, bool turned, int multiprocessors, cudaStream_t stream);

// `y` is contiguous, and so is each image of `x`, which lie `image_stride` numbers apart; `bias` has one for each channel, or is null.
void depthwise_planes(const Depthwise& shape, const void* x, int64_t image_stride, const void* weight, const void* bias, void* y,
                      cudaStream_t stream);

// How many sums there are for each tap and channel, to be added: one from each block.
int partial_sums(const Depthwise& shape, int multiprocessors);

// `partials` is scratch memory for `count` float32 sums of each tap and channel.
void weight_gradient(const Depthwise& shape, Rows x, Rows grad_y, void* grad_weight, float* partials, int count, cudaStream_t stream);

}  // namespace yolov12_kernels
