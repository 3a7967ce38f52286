// SPDX-License-Identifier: AGPL-3.0-or-later
// What follows the sums of a convolution in inference, for eight channels of a pixel: bias, activation, residual, and one rounding.
#pragma once

#include "numbers.cuh"

namespace yolov12_kernels {

// `sums` are at 16 bytes, in shared memory or registers. `residual` may be null.
template <typename T>
__device__ Vector<T> finished(const Vector<float> (&sums)[2], const T* bias, bool silu, const T* residual) {
  const Vector<T> shift = *reinterpret_cast<const Vector<T>*>(bias);
  Vector<T> added, made;
  if (residual != nullptr) added = *reinterpret_cast<const Vector<T>*>(residual);
#pragma unroll
  for (int i = 0; i < kNumbersOfLoad; ++i) {
    float value = sums[i / 4].values[i % 4] + to_float(shift.values[i]);
    if (silu) value = value / (1.0f + __expf(-value));
    if (residual != nullptr) value += to_float(added.values[i]);
    made.values[i] = from_float<T>(value);
  }
  return made;
}

}  // namespace yolov12_kernels
