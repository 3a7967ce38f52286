// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/survive.h for test_survive_on_host.py, which calls it with addresses of tensors.
#include "survive.h"

using namespace yolov12_kernels;

extern "C" {

void survive_boxes(const float* boxes, const int64_t* order, const int* lengths, int images, int most, float iou, int limit, int64_t* kept,
                   int* counts) {
  survive({boxes, order, lengths, images, most}, iou, limit, kept, counts, nullptr);
}
}
