// SPDX-License-Identifier: AGPL-3.0-or-later
// The sigmoid of several numbers at once, which SiLU is made of in training and in inference.
#pragma once

#include <cuda_runtime.h>

namespace yolov12_kernels {

// 1 / (1 + exp(-z)), wrong by a few units of float32's last place. By approximate instructions: a division would be eight and a branch, for which
// memory would wait. Those of the special function unit are few a cycle too, so two numbers share a reciprocal; kMostPower keeps the product finite.
template <int kSize>
__device__ void sigmoids(float (&results)[kSize], const float (&z)[kSize]) {
  constexpr float kLog2E = 1.44269504f, kMostPower = 60.0f;
  float denominators[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fminf(z[i] * -kLog2E, kMostPower)));
    denominators[i] = 1.0f + power;
  }
#pragma unroll
  for (int i = 0; i < kSize; i += 2) {
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(denominators[i] * denominators[i + 1]));
    results[i] = reciprocal * denominators[i + 1];
    results[i + 1] = reciprocal * denominators[i];
  }
}

}  // namespace yolov12_kernels
