// SPDX-License-Identifier: AGPL-3.0-or-later
// How the kernels of inference see NHWC tensors.
#pragma once

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

// Of one image pixel after pixel, row after row without gaps. Distances are in elements and multiples of 8 of them, and `data` is at 16 bytes.
struct Pixels {
  void* data;
  int64_t image;  // from one image to the next
  int64_t pixel;  // from one pixel to the next
};

}  // namespace yolov12_kernels
