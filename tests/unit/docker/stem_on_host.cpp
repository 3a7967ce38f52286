// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/stem.h for test_stem_on_host.py, which calls it with addresses of tensors.
#include "stem.h"

#include <vector>

using namespace yolov12_kernels;

namespace {

constexpr int kMultiprocessors = 1;

Strides strides_of(const int64_t* strides) { return {strides[0], strides[1], strides[2], strides[3]}; }

}  // namespace

extern "C" {

void stem_forward(const int* shape, int type, const void* x, const int64_t* x_strides, const void* weight, const int64_t* weight_strides,
                  const void* bias, void* y) {
  const Stem of{shape[0], shape[1], shape[2], shape[3], static_cast<Type>(type)};
  stem(of, {x, strides_of(x_strides)}, {weight, strides_of(weight_strides)}, bias, y, kMultiprocessors, nullptr);
}

void stem_gradient(const int* shape, int type, const void* x, const int64_t* x_strides, void* grad_y, int64_t grad_stride, void* grad_weight,
                   const int64_t* weight_strides) {
  const Stem of{shape[0], shape[1], shape[2], shape[3], static_cast<Type>(type)};
  const int blocks = stem_blocks(of, kMultiprocessors);
  std::vector<float> partials(static_cast<size_t>(blocks) * kStemTaps * of.channels);
  stem_weight_gradient(of, {x, strides_of(x_strides)}, {grad_y, grad_stride}, grad_weight, strides_of(weight_strides), partials.data(), blocks,
                       kMultiprocessors, nullptr);
}
}
