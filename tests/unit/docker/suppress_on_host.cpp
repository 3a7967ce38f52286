// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/suppress.h for test_suppress_on_host.py, which calls it with addresses of tensors.
#include "suppress.h"

#include <vector>

using namespace yolov12_kernels;

extern "C" {

// numbers: images, anchors, classes, type, agnostic, most, wanted_count, is_placed; `placing`: padding, inverse gain, limit
void suppress_predictions(const int* numbers, float confidence, float iou, const void* predictions, const float* wanted, const float* placing, float* y) {
  const Predicted predicted{predictions, numbers[0], numbers[1], numbers[2], static_cast<Type>(numbers[3])};
  const Placing where{numbers[7] != 0, {placing[0], placing[1]}, {placing[2], placing[3]}, {placing[4], placing[5]}};
  // Full of what must not matter.
  std::vector<unsigned long long> keys(predicted.images * kRoom, 1);
  std::vector<int> labels(predicted.images * predicted.anchors, -1), found(predicted.images, 0);
  suppress(predicted, {confidence, iou, numbers[4] != 0, wanted, numbers[6]}, where, {keys.data(), labels.data(), found.data()}, numbers[5], y,
           nullptr);
}
}
