// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <type_traits>

#include "batch_norm_act.h"
#include "batch_norm_activation.cuh"
#include "batch_norm_passes.cuh"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

#if __CUDA_ARCH__ == 750  // whose multiprocessors run 1024 threads
constexpr int kMostBlocks = 1024 / kThreads;
#else
constexpr int kMostBlocks = 1536 / kThreads;
#endif
constexpr Tuning kApply{2, std::min(5, kMostBlocks)};

template <typename T, Activation kActivation, bool kAccumulate>
__global__ void __launch_bounds__(kThreads, kApply.blocks) apply_kernel(Rows y, Share share, const float* __restrict__ constants, Rows out) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kApply.rows_at_once;
  const Part part(share, kSize);
  if (part.rows == 0) return;
  float scale[kSize], shift[kSize];
  load_constants(scale, constants + kScale * share.channels + part.channel);
  load_constants(shift, constants + kShift * share.channels + part.channel);
  Cursor<const T> from(y, part);
  Cursor<T> to(out, part);
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= kAtOnce) {
    uint4 in[kAtOnce], before[kAtOnce];
    Cursor<T> from_out = to;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const T *const at = from.next(), *const out_at = from_out.next();
      in[k] = k < left ? load(at) : uint4{};
      if (kAccumulate) before[k] = k < left ? *reinterpret_cast<const uint4*>(out_at) : uint4{};
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      float z[kSize], values[kSize];
      unpack<T>(z, in[k]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) z[i] = z[i] * scale[i] + shift[i];
      activate<kActivation>(values, z);
      if (kAccumulate) {
        // Rounded before the addition, as where the two are operations of their own: what is rebuilt is then what was.
        const Vector<T> rounded = pack<T>(values);
        float sums[kSize];
        unpack<T>(sums, before[k]);
        unpack<T>(values, reinterpret_cast<const uint4&>(rounded));
#pragma unroll
        for (int i = 0; i < kSize; ++i) values[i] += sums[i];
      }
      T* const at = to.next();
      if (k < left) store(at, values);
    }
  }
}

}  // namespace

void apply(const Shape& shape, Rows y, const float* constants, Rows out, bool accumulate, cudaStream_t stream) {
  const Share share = share_of_writer(shape);
  with_types(shape, [&](auto* type, auto activation) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr Activation kActivation = decltype(activation)::value;
    if (accumulate)
      apply_kernel<T, kActivation, true><<<share.grid(), kThreads, 0, stream>>>(y, share, constants, out);
    else
      apply_kernel<T, kActivation, false><<<share.grid(), kThreads, 0, stream>>>(y, share, constants, out);
  });
}

}  // namespace yolov12_kernels
