// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/depthwise.h for test_depthwise_on_host.py, which calls it with addresses of arrays.
#include "depthwise.h"

#include <vector>

using namespace yolov12_kernels;

namespace {

constexpr int kMultiprocessors = 1;

Depthwise shape_of(const int* sizes, int type) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], static_cast<Type>(type)};
}

}  // namespace

extern "C" {

// `sizes`: images, height, width, channels, the filter's side. `type`: which of `Type`. `stride`: numbers from a pixel of x to the next; y has no
// gaps.
void depthwise_rows(const int* sizes, int type, void* x, int stride, const void* weight, bool turned, void* y) {
  const Depthwise shape = shape_of(sizes, type);
  depthwise(shape, {x, stride}, weight, {y, shape.channels}, turned, kMultiprocessors, nullptr);
}

void depthwise_weight_gradient(const int* sizes, int type, void* x, int stride, void* grad_y, void* grad_weight) {
  const Depthwise shape = shape_of(sizes, type);
  const int count = partial_sums(shape, kMultiprocessors);
  std::vector<float> partials(static_cast<size_t>(count) * shape.side * shape.side * shape.channels);
  weight_gradient(shape, {x, stride}, {grad_y, shape.channels}, grad_weight, partials.data(), count, nullptr);
}

void depthwise_nchw(const int* sizes, int type, const void* x, const void* weight, const void* bias, void* y) {
  const Depthwise shape = shape_of(sizes, type);
  depthwise_planes(shape, x, static_cast<int64_t>(shape.channels) * shape.height * shape.width, weight, bias, y, nullptr);
}
}
