// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/decode.h for test_decode_on_host.py, which calls it with addresses of tensors.
#include "decode.h"

using namespace yolov12_kernels;

extern "C" {

// numbers: images, anchors, classes, score_width, type, has_centres, levels; then which anchor begins each level, and each level's width
void decode_predictions(const int* numbers, const void* boxes, const void* scores, const float* strides, void* y) {
  Levels levels{numbers[6], {}, {}};
  for (int i = 0; i < levels.count; ++i) {
    levels.begins[i] = numbers[7 + i];
    levels.widths[i] = numbers[7 + levels.count + i];
  }
  const Decoded shape{numbers[0], numbers[1], numbers[2], numbers[3], static_cast<Type>(numbers[4]), numbers[5] != 0};
  decode(shape, levels, boxes, scores, strides, y, false, nullptr);
}
}
