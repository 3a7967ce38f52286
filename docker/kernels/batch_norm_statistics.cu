// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <type_traits>

#include "batch_norm_act.h"
#include "batch_norm_passes.cuh"
#include "batch_norm_sums.cuh"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr Tuning kSumValues{4, 2};

// Sums of y - y[0] and its square: taken from the first row, so that a mean far from zero does not swallow the variance.
template <typename T>
__global__ void __launch_bounds__(kThreads, kSumValues.blocks) sum_values(Rows y, Share share, float* partials) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kSumValues.rows_at_once;
  const Part part(share, kSize);
  float sums[kSize] = {}, squares[kSize] = {};
  if (part.rows > 0) {
    const uint4 first = load(static_cast<const T*>(y.data) + part.channel);
    Cursor<const T> from(y, part);
    float origin[kSize];
    unpack<T>(origin, first);
#pragma unroll 1
    for (int left = part.rows; left > 0; left -= kAtOnce) {
      uint4 in[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const T* const at = from.next();
        in[k] = k < left ? load(at) : first;  // which adds nothing
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        float values[kSize];
        unpack<T>(values, in[k]);
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const float value = values[i] - origin[i];
          sums[i] += value;
          squares[i] += value * value;
        }
      }
    }
  }
  write_block_sums<kSize>(sums, squares, share, part, partials);
}

template <typename T>
__global__ void __launch_bounds__(kFinishChannels* kFinishParts)
    finish_statistics(const T* y, const float* partials, int blocks, int64_t rows, int channels, const float* gamma, const float* beta,
                      float epsilon, Running running, float* constants) {
  const int channel = blockIdx.x * kFinishChannels + threadIdx.x, there = std::min(channel, channels - 1);
  // These are on their way while the sums are.
  const float origin = to_float(y[there]), weight = gamma[there], bias = beta[there];
  const float old_mean = running.mean != nullptr ? running.mean[there] : 0.0f;
  const float old_variance = running.mean != nullptr ? running.variance[there] : 0.0f;
  double sum, squares;
  if (!sum_over_blocks(partials, blocks, channels, channel, &sum, &squares)) return;
  const double shifted_mean = sum / rows;
  const double variance = fmax(squares / rows - shifted_mean * shifted_mean, 0.0);
  // Added in double: a mean near zero is a small difference of two numbers that are not.
  const float mean = static_cast<float>(origin + shifted_mean);
  const float inverse_deviation = rsqrtf(static_cast<float>(variance) + epsilon);
  const float scale = weight * inverse_deviation;
  constants[kMean * channels + channel] = mean;
  constants[kInverseDeviation * channels + channel] = inverse_deviation;
  constants[kScale * channels + channel] = scale;
  constants[kShift * channels + channel] = bias - mean * scale;
  if (running.mean != nullptr) {
    const float unbiased = static_cast<float>(variance * (static_cast<double>(rows) / fmax(static_cast<double>(rows) - 1.0, 1.0)));
    running.mean[channel] = old_mean + running.momentum * (mean - old_mean);
    running.variance[channel] = old_variance + running.momentum * (unbiased - old_variance);
  }
  if (running.batches != nullptr && channel == 0) *running.batches += 1;
}

}  // namespace

int64_t statistics_scratch(const Shape& shape, int multiprocessors) { return partial_sums(share_of_sums(shape, kSumValues, multiprocessors)); }

void statistics(const Shape& shape, Rows y, const float* gamma, const float* beta, float epsilon, Running running, float* constants,
                float* scratch, int multiprocessors, cudaStream_t stream) {
  const Share share = share_of_sums(shape, kSumValues, multiprocessors);
  with_type(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    sum_values<T><<<share.grid(), kThreads, 0, stream>>>(y, share, scratch);
    finish_statistics<T><<<finish_blocks(shape.channels), finish_threads(), 0, stream>>>(static_cast<const T*>(y.data), scratch, share.blocks,
                                                                                         shape.rows, shape.channels, gamma, beta, epsilon,
                                                                                         running, constants);
  });
}

}  // namespace yolov12_kernels
