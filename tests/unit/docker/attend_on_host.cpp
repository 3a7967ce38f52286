// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/attend.h for test_attend_on_host.py, which calls it with addresses of tensors.
#include "attend.h"

using namespace yolov12_kernels;

namespace {

Heads heads_at(void* data, const int64_t* strides) { return {data, strides[0], strides[1], strides[2]}; }

}  // namespace

extern "C" {

// numbers: sequences, tokens, heads, type
void attend_forward(const int* numbers, void* q, void* k, void* v, const int64_t* strides, void* out, const int64_t* out_strides) {
  const Attention shape{numbers[0], numbers[1], numbers[2], static_cast<Type>(numbers[3])};
  attend(shape, heads_at(q, strides), heads_at(k, strides), heads_at(v, strides), heads_at(out, out_strides), false, nullptr);
}
}
