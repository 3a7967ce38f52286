// SPDX-License-Identifier: AGPL-3.0-or-later
// CUDA's float16 by name only: it has no numbers on the host, so that kernels compile and tests that need it are for a GPU.
#pragma once

#include <cstdint>
#include <cstdlib>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half) { std::abort(); }
inline __half __float2half_rn(float) { std::abort(); }
