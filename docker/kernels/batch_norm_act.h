// SPDX-License-Identifier: AGPL-3.0-or-later
// Batch norm in training, followed by SiLU or nothing, over a matrix of rows x channels: an NHWC tensor seen as one row for each pixel.
//
// What is between the convolution's output and the activation is never stored. Each pass reads the convolution's output and computes the
// rest again:
//     statistics   reads y             mean and variance of each channel
//     apply        reads y, writes a   a = act(scale * y + shift)
//     reduce       reads y, da         sums of dz and dz * (y - mean) for each channel, where dz = da * act'(scale * y + shift)
//     gradient     reads y, da, writes dy
// cuDNN and torch's batch norm with an activation of its own move 13 times the size of y in forward and backward; these passes move 8.
// All sums are taken in a fixed order, so that equal inputs give equal bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "loads.h"

namespace yolov12_kernels {

enum class Type { kFloat, kHalf, kBFloat16 };
enum class Activation { kNone, kSiLU };

// Rows of `channels` elements that begin `stride` elements apart: a whole NHWC tensor, or some of the channels of a wider one.
struct Rows {
  void* data;
  int64_t stride;
};

struct Shape {
  int64_t rows;
  int channels;
  Type type;
  Activation activation;
};

// For each channel, float32, in the order in which `constants` has them.
enum Constant { kMean, kInverseDeviation, kScale, kShift, kConstants };

struct Running {
  float* mean;  // nullptr: no running statistics
  float* variance;
  int64_t* batches;  // nullptr: not counted
  float momentum;
};

// How many elements of a load: channels and strides must be multiples of it.
constexpr int elements_per_load(Type type) { return kLoadBytes / (type == Type::kFloat ? 4 : 2); }

// How many float32 of scratch memory, aligned to 16 bytes as `constants` is too, `statistics` and `gradient` take.
int64_t statistics_scratch(const Shape& shape, int multiprocessors);
int64_t gradient_scratch(const Shape& shape, int multiprocessors);

void statistics(const Shape& shape, Rows y, const float* gamma, const float* beta, float epsilon, Running running, float* constants,
                float* scratch, int multiprocessors, cudaStream_t stream);

// `accumulate`: a is added to what `out` holds, as a residual connection does.
void apply(const Shape& shape, Rows y, const float* constants, Rows out, bool accumulate, cudaStream_t stream);

void gradient(const Shape& shape, Rows y, Rows grad_out, const float* constants, Rows grad_y, float* grad_gamma, float* grad_beta,
              float* scratch, int multiprocessors, cudaStream_t stream);

}  // namespace yolov12_kernels
