// SPDX-License-Identifier: AGPL-3.0-or-later
// Frames as they were decoded become what a network takes: resized, with a grey border, red before blue, in planes and in its type.
//
// Resizing is OpenCV's INTER_LINEAR of 8 bits in its fixed point, to the bit (modules/imgproc/src/resize.cpp, HResizeLinear and VResizeLinear):
// weights of 11 bits; the sum of two neighbours in a row is cut by 4 bits, and its product with the row's weight by 16; the sum of two rows is rounded
// by the last 2. OpenCV has a way of its own where both sides are halved, the mean of 2 x 2 pixels, and copies where no side changes: these rules give
// the same there.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

constexpr int kColours = 3;
constexpr int kGreys = 256;  // levels of 8 bits

struct Letterbox {
  int images;
  int height, width;                  // of each frame
  int resized_height, resized_width;  // of what becomes of it
  int top, left;                      // rows above it and columns beside it that are border
  int out_height, out_width;
  Type type;
  // From one to the next, in elements of the output: planes or channels_last.
  int64_t image_stride;
  int colour_stride, row_stride, column_stride;
};

// `frames` is (images, height, width, 3) in blue, green and red, and begins at any byte. `levels` are kGreys numbers of the output's type, one for each
// level of 8 bits, and `out` is (images, 3, out_height, out_width).
void letterbox(const Letterbox& of, const uint8_t* frames, const void* levels, void* out, cudaStream_t stream);

}  // namespace yolov12_kernels
