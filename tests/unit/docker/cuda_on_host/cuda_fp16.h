// SPDX-License-Identifier: AGPL-3.0-or-later
// CUDA's float16 for g++, as far as docker/kernels/numbers.cuh needs it: 5 digits of exponent, 10 behind the point. Finite numbers only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half number) {
  const int exponent = number.bits >> 10 & 31, digits = number.bits & 1023;
  const float magnitude = std::ldexp(static_cast<float>(exponent == 0 ? digits : digits + 1024), std::max(exponent, 1) - 25);
  return number.bits >> 15 ? -magnitude : magnitude;
}

// Half to even.
inline __half __float2half_rn(float number) {
  const float magnitude = std::fabs(number);
  const int power = std::max(magnitude == 0.0f ? -14 : std::ilogb(magnitude), -14);  // of the first digit; smaller numbers have fewer digits
  const int digits = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - power)));
  // With all digits the first one counts for an exponent of 1 more, and a carry for one more again.
  return {static_cast<uint16_t>((std::signbit(number) ? 0x8000 : 0) | ((power + 14) * 1024 + digits))};
}

struct __half2 {
  __half low, high;
};

inline float __low2float(__half2 from) { return __half2float(from.low); }
inline float __high2float(__half2 from) { return __half2float(from.high); }
