// SPDX-License-Identifier: AGPL-3.0-or-later
// docker/kernels/tensor_cores.cuh for g++: the same product, of what the 32 threads of a warp show each other.
#pragma once

#include "numbers.cuh"

namespace yolov12_kernels {

template <typename T>
uint32_t rounded(float first, float second) {
  const T low = from_float<T>(first), high = from_float<T>(second);
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

template <typename T>
double number_at(double words, int half) {
  const uint16_t bits = static_cast<uint16_t>(static_cast<uint32_t>(words) >> 16 * half);
  return to_float(T{bits});
}

template <typename T>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Four {
    float sums[4];
  };
  const Four made = together<uint32_t, 6>({a[0], a[1], a[2], a[3], b[0], b[1]}, [&](const auto& shown) {
    Four four;
    for (int i = 0; i < 4; ++i) {
      const int row = lane_here / 4 + 8 * (i / 2), column = 2 * (lane_here % 4) + i % 2;
      double sum = sums[i];
      for (int k = 0; k < 16; ++k) {
        const int pair = k / 2;
        sum += number_at<T>(shown[4 * (row % 8) + pair % 4][row / 8 + 2 * (pair / 4)], k % 2) *
               number_at<T>(shown[4 * column + pair % 4][4 + pair / 4], k % 2);
      }
      four.sums[i] = static_cast<float>(sum);
    }
    return four;
  });
  for (int i = 0; i < 4; ++i) sums[i] = made.sums[i];
}

}  // namespace yolov12_kernels
