// SPDX-License-Identifier: AGPL-3.0-or-later
// bfloat16 on the CPU: the upper half of a float32, rounded to the nearest, to even in the middle. Not for NaN.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float made;
  std::memcpy(&made, &wide, sizeof made);
  return made;
}

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, sizeof wide);
  wide += 0x7fff + (wide >> 16 & 1);
  return {static_cast<uint16_t>(wide >> 16)};
}
