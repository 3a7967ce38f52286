// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of CUDA's header as numbers.cuh and depthwise.cu need.
#pragma once

struct __half {
  _Float16 number;
};
struct __half2 {
  __half low, high;
};

inline float __half2float(__half from) { return from.number; }
inline __half __float2half_rn(float from) { return {static_cast<_Float16>(from)}; }
inline float __low2float(__half2 from) { return from.low.number; }
inline float __high2float(__half2 from) { return from.high.number; }
