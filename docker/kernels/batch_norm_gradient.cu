// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <type_traits>

#include "batch_norm_act.h"
#include "batch_norm_activation.cuh"
#include "batch_norm_passes.cuh"
#include "batch_norm_sums.cuh"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr Tuning kSumGradients{4, 2}, kGradient{2, 4};

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads, kSumGradients.blocks)
    sum_gradients(Rows y, Rows grad_out, Share share, const float* __restrict__ constants, float* partials) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kSumGradients.rows_at_once;
  const Part part(share, kSize);
  float sums[kSize] = {}, products[kSize] = {};
  if (part.rows > 0) {
    float scale[kSize], shift[kSize], mean[kSize];
    load_constants(scale, constants + kScale * share.channels + part.channel);
    load_constants(shift, constants + kShift * share.channels + part.channel);
    load_constants(mean, constants + kMean * share.channels + part.channel);
    Cursor<const T> from(y, part), from_grad(grad_out, part);
#pragma unroll 1
    for (int left = part.rows; left > 0; left -= kAtOnce) {
      uint4 in[kAtOnce], grad[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const T *const at = from.next(), *const grad_at = from_grad.next();
        in[k] = k < left ? load(at) : uint4{};
        grad[k] = k < left ? load(grad_at) : uint4{};  // zeros add nothing
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        float values[kSize], grads[kSize], z[kSize], slope[kSize];
        unpack<T>(values, in[k]);
        unpack<T>(grads, grad[k]);
#pragma unroll
        for (int i = 0; i < kSize; ++i) z[i] = values[i] * scale[i] + shift[i];
        slopes<kActivation>(slope, z);
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const float grad_z = grads[i] * slope[i];
          sums[i] += grad_z;
          products[i] += grad_z * (values[i] - mean[i]);
        }
      }
    }
  }
  write_block_sums<kSize>(sums, products, share, part, partials);
}

// Also what is subtracted from a gradient, in terms of z = scale * y + shift: a constant, and a multiple of z.
__global__ void __launch_bounds__(kFinishChannels* kFinishParts)
    finish_gradients(const float* partials, int blocks, int64_t rows, int channels, const float* constants, float* grad_gamma,
                     float* grad_beta, float* corrections) {
  const int channel = blockIdx.x * kFinishChannels + threadIdx.x, there = std::min(channel, channels - 1);
  const float mean = constants[kMean * channels + there], inverse_deviation = constants[kInverseDeviation * channels + there];
  const float scale = constants[kScale * channels + there], shift = constants[kShift * channels + there];
  double sum, product;
  if (!sum_over_blocks(partials, blocks, channels, channel, &sum, &product)) return;
  grad_beta[channel] = static_cast<float>(sum);
  grad_gamma[channel] = static_cast<float>(product * inverse_deviation);
  // scale * (sum / rows + (y - mean) * factor), where z is scale * mean + shift at the mean
  const float factor = inverse_deviation * inverse_deviation * static_cast<float>(product / rows);
  corrections[channel] = scale * static_cast<float>(sum / rows) - factor * (scale * mean + shift);
  corrections[channels + channel] = factor;
}

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads, kGradient.blocks)
    gradient_kernel(Rows y, Rows grad_out, Share share, const float* __restrict__ constants, const float* __restrict__ corrections,
                    Rows grad_y) {
  constexpr int kSize = Vector<T>::kSize, kAtOnce = kGradient.rows_at_once;
  const Part part(share, kSize);
  if (part.rows == 0) return;
  float scale[kSize], shift[kSize], offset[kSize], factor[kSize];
  load_constants(scale, constants + kScale * share.channels + part.channel);
  load_constants(shift, constants + kShift * share.channels + part.channel);
  load_constants(offset, corrections + part.channel);
  load_constants(factor, corrections + share.channels + part.channel);
  Cursor<const T> from(y, part), from_grad(grad_out, part);
  Cursor<T> to(grad_y, part);
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= kAtOnce) {
    uint4 in[kAtOnce], grad[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const T *const at = from.next(), *const grad_at = from_grad.next();
      in[k] = k < left ? load(at) : uint4{};
      grad[k] = k < left ? load(grad_at) : uint4{};
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      float z[kSize], grads[kSize], slope[kSize];
      unpack<T>(z, in[k]);
      unpack<T>(grads, grad[k]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) z[i] = z[i] * scale[i] + shift[i];
      slopes<kActivation>(slope, z);
#pragma unroll
      for (int i = 0; i < kSize; ++i) z[i] = scale[i] * (grads[i] * slope[i]) - (offset[i] + factor[i] * z[i]);
      T* const at = to.next();
      if (k < left) store(at, z);
    }
  }
}

}  // namespace

int64_t gradient_scratch(const Shape& shape, int multiprocessors) {
  return partial_sums(share_of_sums(shape, kSumGradients, multiprocessors)) + 2 * static_cast<int64_t>(shape.channels);
}

void gradient(const Shape& shape, Rows y, Rows grad_out, const float* constants, Rows grad_y, float* grad_gamma, float* grad_beta,
              float* scratch, int multiprocessors, cudaStream_t stream) {
  const Share sums = share_of_sums(shape, kSumGradients, multiprocessors), all = share_of_writer(shape);
  float* const corrections = scratch + partial_sums(sums);
  with_types(shape, [&](auto* type, auto activation) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr Activation kActivation = decltype(activation)::value;
    sum_gradients<T, kActivation><<<sums.grid(), kThreads, 0, stream>>>(y, grad_out, sums, constants, scratch);
    finish_gradients<<<finish_blocks(shape.channels), finish_threads(), 0, stream>>>(scratch, sums.blocks, shape.rows, shape.channels, constants,
                                                                                   grad_gamma, grad_beta, corrections);
    gradient_kernel<T, kActivation><<<all.grid(), kThreads, 0, stream>>>(y, grad_out, all, constants, corrections, grad_y);
  });
}

}  // namespace yolov12_kernels
