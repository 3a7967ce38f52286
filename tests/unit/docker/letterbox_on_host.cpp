// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/letterbox.h for test_letterbox_on_host.py, which calls it with addresses of tensors.
#include "letterbox.h"

using namespace yolov12_kernels;

extern "C" {

// numbers: images, height, width, resized_height, resized_width, top, left, out_height, out_width, type; then the strides of images, colours, rows, columns
void letterbox_frames(const int* numbers, const uint8_t* frames, const void* levels, void* out) {
  const int* const n = numbers;
  const Letterbox of{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], static_cast<Type>(n[9]), n[10], n[11], n[12], n[13]};
  letterbox(of, frames, levels, out, nullptr);
}
}
