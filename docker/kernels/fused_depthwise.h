// SPDX-License-Identifier: AGPL-3.0-or-later
// A depthwise convolution of a network in inference, with what follows it, as one kernel: y = act(conv(x) + bias), or residual + that.
//
// As `fused_conv.h` for convolutions of all channels: sums are float32 and rounded once, and x, y and the residual may be some channels of wider
// tensors. `depthwise.h` is for training, where nothing follows.
#pragma once

#include <cuda_runtime.h>

#include "pixels.h"

namespace yolov12_kernels {

struct FusedDepthwise {
  int images;
  int height, width;
  int channels;  // a multiple of 8
  int side;      // of the filter: 3, 5 or 7, with side / 2 zeros around; its stride is 1
  Type type;     // kHalf or kBFloat16
  Activation activation;
};

// `taps` is (side, side, channels), `bias` has a number of the same type for each channel, `residual.data` may be null, or that of `y`.
// `early` as for `fused_conv`.
void fused_depthwise(const FusedDepthwise& shape, Pixels x, const void* taps, const void* bias, Pixels residual, Pixels y, bool early,
                     int multiprocessors, cudaStream_t stream);

}  // namespace yolov12_kernels
