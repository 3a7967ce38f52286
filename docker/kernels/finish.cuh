// SPDX-License-Identifier: AGPL-3.0-or-later
// What follows the sums of a convolution in inference, for eight channels of a pixel: bias, activation, residual, and one rounding.
#pragma once

#include "numbers.cuh"
#include "pixels.h"
#include "sigmoid.cuh"

namespace yolov12_kernels {

// Eight channels of a pixel of an image.
template <typename T>
__device__ Vector<T>* vector_at(const Pixels& pixels, int image, int64_t pixel, int channel) {
  return reinterpret_cast<Vector<T>*>(static_cast<T*>(pixels.data) + image * pixels.image + pixel * pixels.pixel + channel);
}

// `sums` are at 16 bytes, in shared memory or registers. Where there is no residual, it is zeros.
template <typename T>
__device__ Vector<T> finished(const Vector<float> (&sums)[2], const Vector<T>& bias, bool silu, const Vector<T>& residual) {
  float z[kNumbersOfLoad];
#pragma unroll
  for (int i = 0; i < kNumbersOfLoad; ++i) z[i] = sums[i / 4].values[i % 4] + to_float(bias.values[i]);
  if (silu) {
    float sigmoid_of_z[kNumbersOfLoad];
    sigmoids(sigmoid_of_z, z);
#pragma unroll
    for (int i = 0; i < kNumbersOfLoad; ++i) z[i] *= sigmoid_of_z[i];
  }
  Vector<T> made;
#pragma unroll
  for (int i = 0; i < kNumbersOfLoad; ++i) made.values[i] = from_float<T>(z[i] + to_float(residual.values[i]));
  return made;
}

}  // namespace yolov12_kernels
