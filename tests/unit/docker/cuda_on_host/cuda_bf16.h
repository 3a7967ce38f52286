// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA's header as numbers.cuh and depthwise.cu need. A bfloat16 is the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __uint_as_float(uint32_t bits) {
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

inline float __bfloat162float(__nv_bfloat16 number) { return __uint_as_float(static_cast<uint32_t>(number.bits) << 16); }

// To the nearest, half to even; of a number that is none, what is asked here of nobody.
inline __nv_bfloat16 __float2bfloat16_rn(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
