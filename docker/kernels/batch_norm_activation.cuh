// SPDX-License-Identifier: AGPL-3.0-or-later
// What follows batch norm: SiLU or nothing, its slope, and the instance of a kernel for each.
#pragma once

#include "batch_norm_act.h"
#include "numbers.cuh"
#include "sigmoid.cuh"

namespace yolov12_kernels {

// act(z)
template <Activation kActivation, int kSize>
__device__ void activate(float (&values)[kSize], const float (&z)[kSize]) {
  if (kActivation == Activation::kSiLU) sigmoids(values, z);
#pragma unroll
  for (int i = 0; i < kSize; ++i)
    values[i] = kActivation == Activation::kSiLU ? __fmul_rn(z[i], values[i]) : z[i];  // rounded, also where it is added to something
}

// d act(z) / dz
template <Activation kActivation, int kSize>
__device__ void slopes(float (&values)[kSize], const float (&z)[kSize]) {
  if (kActivation == Activation::kSiLU) sigmoids(values, z);
#pragma unroll
  for (int i = 0; i < kSize; ++i)
    values[i] = kActivation == Activation::kSiLU ? values[i] * (1.0f + z[i] * (1.0f - values[i])) : 1.0f;
}

// The kernels are templates over type and activation; this picks the instance. `call` takes (T*, Chosen).
template <Activation kActivation>
struct Chosen {
  static constexpr Activation value = kActivation;
};

template <typename Call>
void with_types(const Shape& shape, const Call& call) {
  with_type(shape.type, [&](auto* type) {
    if (shape.activation == Activation::kSiLU)
      call(type, Chosen<Activation::kSiLU>());
    else
      call(type, Chosen<Activation::kNone>());
  });
}

}  // namespace yolov12_kernels
