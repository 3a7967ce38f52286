// SPDX-License-Identifier: AGPL-3.0-or-later
// CUDA's bfloat16 for g++, as far as docker/kernels/numbers.cuh needs it: the upper half of a float32. Finite numbers only.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __uint_as_float(uint32_t bits) {
  float made;
  memcpy(&made, &bits, sizeof made);
  return made;
}

inline uint32_t __float_as_uint(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

inline float __bfloat162float(__nv_bfloat16 number) { return __uint_as_float(static_cast<uint32_t>(number.bits) << 16); }

// Half to even.
inline __nv_bfloat16 __float2bfloat16_rn(float number) {
  uint32_t wide;
  memcpy(&wide, &number, sizeof wide);
  return {static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
}
