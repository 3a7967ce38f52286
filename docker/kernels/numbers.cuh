// SPDX-License-Identifier: AGPL-3.0-or-later
// Numbers of any type that the kernels take, computed with as float32, and loaded 16 bytes at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "batch_norm_act.h"
#include "loads.h"

namespace yolov12_kernels {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// One 16-byte load or store.
template <typename T>
struct alignas(kLoadBytes) Vector {
  static constexpr int kSize = kLoadBytes / sizeof(T);
  T values[kSize];
};

// Calls `call` with a null pointer to numbers of this type: kernels are templates over it.
template <typename Call>
void with_type(Type type, const Call& call) {
  switch (type) {
    case Type::kFloat: return call(static_cast<float*>(nullptr));
    case Type::kHalf: return call(static_cast<__half*>(nullptr));
    case Type::kBFloat16: return call(static_cast<__nv_bfloat16*>(nullptr));
  }
}

}  // namespace yolov12_kernels
