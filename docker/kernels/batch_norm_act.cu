// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <type_traits>

#include "batch_norm_act.h"
#include "numbers.cuh"

namespace yolov12_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;  // which threads of up to 32 registers each would fill
constexpr int kRowsPerThread = 4;            // fewer, and a block costs more than its rows
constexpr int kFinishThreads = 128;

// A block's threads as a grid: `columns` vectors side by side cover all channels, the rest of the threads take further rows.
struct Layout {
  int columns;
  int rows;
  __host__ __device__ Layout(int channels, int vector) : columns(channels / vector), rows(0) {
    if (columns > kThreads) columns = kThreads;
    rows = kThreads / columns;
  }
};

template <Activation kActivation>
__device__ float activate(float z) {
  if (kActivation == Activation::kNone) return z;
  return z / (1.0f + __expf(-z));
}

// d act(z) / dz
template <Activation kActivation>
__device__ float slope(float z) {
  if (kActivation == Activation::kNone) return 1.0f;
  const float sigmoid = 1.0f / (1.0f + __expf(-z));
  return sigmoid * (1.0f + z * (1.0f - sigmoid));
}

template <int kSize>
__device__ void load_constants(float (&values)[kSize], const float* constants, int channel) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) values[i] = constants[channel + i];
}

// Sums over the rows of one block: each thread brings two sums for each of its channels, the block writes one of each.
template <int kSize>
__device__ void write_block_sums(const float (&first)[kSize], const float (&second)[kSize], const Layout& layout, int column, int row,
                                 bool works, int channel, int channels, float* partials) {
  __shared__ float shared[kThreads * kSize];
  float* block_partials = partials + static_cast<int64_t>(blockIdx.x) * 2 * channels;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    __syncthreads();
    if (works)
      for (int i = 0; i < kSize; ++i) shared[(row * layout.columns + column) * kSize + i] = which == 0 ? first[i] : second[i];
    __syncthreads();
    // Threads over columns * kSize channels of this part, each adding up the rows in order.
    const int part = layout.columns * kSize;
    for (int i = threadIdx.x; i < part; i += kThreads) {
      float sum = 0.0f;
      for (int r = 0; r < layout.rows; ++r) sum += shared[r * part + i];
      const int at = channel - column * kSize + i;
      if (at < channels) block_partials[which * channels + at] = sum;
    }
  }
}

// Sums of y - y[0] and its square: taken from the first row, so that a mean far from zero does not swallow the variance.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_values(const T* __restrict__ y, int64_t stride, int64_t rows, int channels, float* partials) {
  constexpr int kSize = Vector<T>::kSize;
  const Layout layout(channels, kSize);
  const int column = threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  const int channel = (blockIdx.y * layout.columns + column) * kSize;
  const bool works = row < layout.rows && channel < channels;
  float sums[kSize] = {}, squares[kSize] = {};
  if (works) {
    float origin[kSize];
    const Vector<T> first = *reinterpret_cast<const Vector<T>*>(y + channel);
#pragma unroll
    for (int i = 0; i < kSize; ++i) origin[i] = to_float(first.values[i]);
    const int64_t step = static_cast<int64_t>(gridDim.x) * layout.rows;
#pragma unroll 4
    for (int64_t r = static_cast<int64_t>(blockIdx.x) * layout.rows + row; r < rows; r += step) {
      const Vector<T> in = *reinterpret_cast<const Vector<T>*>(y + r * stride + channel);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float value = to_float(in.values[i]) - origin[i];
        sums[i] += value;
        squares[i] += value * value;
      }
    }
  }
  write_block_sums<kSize>(sums, squares, layout, column, row, works, channel, channels, partials);
}

// Two sums over the blocks for one channel; a warp for each channel.
__device__ void sum_over_blocks(const float* partials, int blocks, int channels, int channel, double* first, double* second) {
  double a = 0.0, b = 0.0;
  for (int block = threadIdx.x % 32; block < blocks; block += 32) {
    a += partials[static_cast<int64_t>(block) * 2 * channels + channel];
    b += partials[static_cast<int64_t>(block) * 2 * channels + channels + channel];
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    a += __shfl_down_sync(0xffffffffu, a, distance);
    b += __shfl_down_sync(0xffffffffu, b, distance);
  }
  *first = a;
  *second = b;
}

template <typename T>
__global__ void finish_statistics(const T* y, const float* partials, int blocks, int64_t rows, int channels, const float* gamma,
                                  const float* beta, float epsilon, Running running, float* constants) {
  const int channel = (blockIdx.x * kFinishThreads + threadIdx.x) / 32;
  if (channel >= channels) return;
  double sum, squares;
  sum_over_blocks(partials, blocks, channels, channel, &sum, &squares);
  if (threadIdx.x % 32 != 0) return;
  const double shifted_mean = sum / rows;
  const double variance = fmax(squares / rows - shifted_mean * shifted_mean, 0.0);
  // Added in double: a mean near zero is a small difference of two numbers that are not.
  const float mean = static_cast<float>(to_float(y[channel]) + shifted_mean);
  const float inverse_deviation = rsqrtf(static_cast<float>(variance) + epsilon);
  const float scale = gamma[channel] * inverse_deviation;
  constants[kMean * channels + channel] = mean;
  constants[kInverseDeviation * channels + channel] = inverse_deviation;
  constants[kScale * channels + channel] = scale;
  constants[kShift * channels + channel] = beta[channel] - mean * scale;
  if (running.mean != nullptr) {
    const float unbiased = static_cast<float>(variance * (static_cast<double>(rows) / fmax(static_cast<double>(rows) - 1.0, 1.0)));
    running.mean[channel] += running.momentum * (mean - running.mean[channel]);
    running.variance[channel] += running.momentum * (unbiased - running.variance[channel]);
  }
  if (running.batches != nullptr && channel == 0) *running.batches += 1;
}

template <typename T, Activation kActivation, bool kAccumulate>
__global__ void __launch_bounds__(kThreads) apply_kernel(const T* __restrict__ y, int64_t stride, int64_t rows, int channels,
                                                         const float* __restrict__ constants, T* out, int64_t out_stride) {
  constexpr int kSize = Vector<T>::kSize;
  const Layout layout(channels, kSize);
  const int column = threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  const int channel = (blockIdx.y * layout.columns + column) * kSize;
  if (row >= layout.rows || channel >= channels) return;
  float scale[kSize], shift[kSize];
  load_constants(scale, constants + kScale * channels, channel);
  load_constants(shift, constants + kShift * channels, channel);
  const int64_t step = static_cast<int64_t>(gridDim.x) * layout.rows;
#pragma unroll 4
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * layout.rows + row; r < rows; r += step) {
    const Vector<T> in = *reinterpret_cast<const Vector<T>*>(y + r * stride + channel);
    Vector<T>* target = reinterpret_cast<Vector<T>*>(out + r * out_stride + channel);
    Vector<T> result;
    if (kAccumulate) result = *target;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      float value = activate<kActivation>(to_float(in.values[i]) * scale[i] + shift[i]);
      // Rounded before the addition, as where the two are operations of their own: what is rebuilt is then what was.
      if (kAccumulate) value = to_float(result.values[i]) + to_float(from_float<T>(value));
      result.values[i] = from_float<T>(value);
    }
    *target = result;
  }
}

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads)
    sum_gradients(const T* __restrict__ y, int64_t stride, const T* __restrict__ grad_out, int64_t grad_stride, int64_t rows, int channels,
                  const float* __restrict__ constants, float* partials) {
  constexpr int kSize = Vector<T>::kSize;
  const Layout layout(channels, kSize);
  const int column = threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  const int channel = (blockIdx.y * layout.columns + column) * kSize;
  const bool works = row < layout.rows && channel < channels;
  float sums[kSize] = {}, products[kSize] = {};
  if (works) {
    float scale[kSize], shift[kSize], mean[kSize];
    load_constants(scale, constants + kScale * channels, channel);
    load_constants(shift, constants + kShift * channels, channel);
    load_constants(mean, constants + kMean * channels, channel);
    const int64_t step = static_cast<int64_t>(gridDim.x) * layout.rows;
#pragma unroll 2
    for (int64_t r = static_cast<int64_t>(blockIdx.x) * layout.rows + row; r < rows; r += step) {
      const Vector<T> in = *reinterpret_cast<const Vector<T>*>(y + r * stride + channel);
      const Vector<T> grad = *reinterpret_cast<const Vector<T>*>(grad_out + r * grad_stride + channel);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float value = to_float(in.values[i]);
        const float grad_z = to_float(grad.values[i]) * slope<kActivation>(value * scale[i] + shift[i]);
        sums[i] += grad_z;
        products[i] += grad_z * (value - mean[i]);
      }
    }
  }
  write_block_sums<kSize>(sums, products, layout, column, row, works, channel, channels, partials);
}

// Also what is subtracted from a gradient: a constant, and a multiple of y - mean.
__global__ void finish_gradients(float* partials, int blocks, int64_t rows, int channels, const float* constants, float* grad_gamma,
                                 float* grad_beta, float* corrections) {
  const int channel = (blockIdx.x * kFinishThreads + threadIdx.x) / 32;
  if (channel >= channels) return;
  double sum, product;
  sum_over_blocks(partials, blocks, channels, channel, &sum, &product);
  if (threadIdx.x % 32 != 0) return;
  const float inverse_deviation = constants[kInverseDeviation * channels + channel];
  const float scale = constants[kScale * channels + channel];
  grad_beta[channel] = static_cast<float>(sum);
  grad_gamma[channel] = static_cast<float>(product * inverse_deviation);
  corrections[channel] = scale * static_cast<float>(sum / rows);
  corrections[channels + channel] = scale * inverse_deviation * inverse_deviation * static_cast<float>(product / rows);
}

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const T* __restrict__ y, int64_t stride, const T* grad_out, int64_t grad_stride, int64_t rows, int channels,
                    const float* __restrict__ constants, const float* __restrict__ corrections, T* grad_y, int64_t grad_y_stride) {
  constexpr int kSize = Vector<T>::kSize;
  const Layout layout(channels, kSize);
  const int column = threadIdx.x % layout.columns, row = threadIdx.x / layout.columns;
  const int channel = (blockIdx.y * layout.columns + column) * kSize;
  if (row >= layout.rows || channel >= channels) return;
  float scale[kSize], shift[kSize], offset[kSize], factor[kSize];
  load_constants(scale, constants + kScale * channels, channel);
  load_constants(shift, constants + kShift * channels, channel);
  load_constants(factor, corrections + channels, channel);
  {
    float mean[kSize];
    load_constants(mean, constants + kMean * channels, channel);
    load_constants(offset, corrections, channel);
    // offset + factor * (y - mean), with what does not depend on y in one number
#pragma unroll
    for (int i = 0; i < kSize; ++i) offset[i] -= factor[i] * mean[i];
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * layout.rows;
#pragma unroll 2
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * layout.rows + row; r < rows; r += step) {
    const Vector<T> in = *reinterpret_cast<const Vector<T>*>(y + r * stride + channel);
    const Vector<T> grad = *reinterpret_cast<const Vector<T>*>(grad_out + r * grad_stride + channel);
    Vector<T> result;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const float value = to_float(in.values[i]);
      const float grad_z = to_float(grad.values[i]) * slope<kActivation>(value * scale[i] + shift[i]);
      result.values[i] = from_float<T>(scale[i] * grad_z - (offset[i] + factor[i] * value));
    }
    *reinterpret_cast<Vector<T>*>(grad_y + r * grad_y_stride + channel) = result;
  }
}

// The kernels are templates over type and activation; this picks the instance. `call` takes (T*, Chosen).
template <Activation kActivation>
struct Chosen {
  static constexpr Activation value = kActivation;
};

template <typename Call>
void with_types(const Shape& shape, const Call& call) {
  with_type(shape.type, [&](auto* type) {
    if (shape.activation == Activation::kSiLU)
      call(type, Chosen<Activation::kSiLU>());
    else
      call(type, Chosen<Activation::kNone>());
  });
}

dim3 grid(const Shape& shape, int blocks) {
  const int vectors = shape.channels / elements_per_load(shape.type);
  const Layout layout(shape.channels, elements_per_load(shape.type));
  return dim3(blocks, (vectors + layout.columns - 1) / layout.columns);
}

int finish_blocks(int channels) { return (channels * 32 + kFinishThreads - 1) / kFinishThreads; }

}  // namespace

int elements_per_load(Type type) { return kLoadBytes / (type == Type::kFloat ? 4 : 2); }

int blocks_for(const Shape& shape, int multiprocessors) {
  const int64_t rows_per_block = static_cast<int64_t>(Layout(shape.channels, elements_per_load(shape.type)).rows) * kRowsPerThread;
  const int64_t wanted = (shape.rows + rows_per_block - 1) / rows_per_block;
  const int64_t most = static_cast<int64_t>(multiprocessors) * kBlocksPerMultiprocessor;
  return static_cast<int>(std::max<int64_t>(1, std::min(wanted, most)));
}

void statistics(const Shape& shape, Rows y, const float* gamma, const float* beta, float epsilon, Running running, float* constants,
                float* partials, int blocks, cudaStream_t stream) {
  with_types(shape, [&](auto* type, auto) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* values = static_cast<const T*>(y.data);
    sum_values<T><<<grid(shape, blocks), kThreads, 0, stream>>>(values, y.stride, shape.rows, shape.channels, partials);
    finish_statistics<T><<<finish_blocks(shape.channels), kFinishThreads, 0, stream>>>(values, partials, blocks, shape.rows, shape.channels,
                                                                                       gamma, beta, epsilon, running, constants);
  });
}

void apply(const Shape& shape, Rows y, const float* constants, Rows out, bool accumulate, int blocks, cudaStream_t stream) {
  with_types(shape, [&](auto* type, auto activation) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr Activation kActivation = decltype(activation)::value;
    const T* values = static_cast<const T*>(y.data);
    T* target = static_cast<T*>(out.data);
    if (accumulate)
      apply_kernel<T, kActivation, true>
          <<<grid(shape, blocks), kThreads, 0, stream>>>(values, y.stride, shape.rows, shape.channels, constants, target, out.stride);
    else
      apply_kernel<T, kActivation, false>
          <<<grid(shape, blocks), kThreads, 0, stream>>>(values, y.stride, shape.rows, shape.channels, constants, target, out.stride);
  });
}

void gradient(const Shape& shape, Rows y, Rows grad_out, const float* constants, Rows grad_y, float* grad_gamma, float* grad_beta,
              float* partials, int blocks, cudaStream_t stream) {
  float* corrections = partials + static_cast<int64_t>(blocks) * 2 * shape.channels;
  with_types(shape, [&](auto* type, auto activation) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr Activation kActivation = decltype(activation)::value;
    const T* values = static_cast<const T*>(y.data);
    const T* grads = static_cast<const T*>(grad_out.data);
    sum_gradients<T, kActivation><<<grid(shape, blocks), kThreads, 0, stream>>>(values, y.stride, grads, grad_out.stride, shape.rows,
                                                                                shape.channels, constants, partials);
    finish_gradients<<<finish_blocks(shape.channels), kFinishThreads, 0, stream>>>(partials, blocks, shape.rows, shape.channels, constants,
                                                                                   grad_gamma, grad_beta, corrections);
    gradient_kernel<T, kActivation><<<grid(shape, blocks), kThreads, 0, stream>>>(values, y.stride, grads, grad_out.stride, shape.rows,
                                                                                  shape.channels, constants, corrections,
                                                                                  static_cast<T*>(grad_y.data), grad_y.stride);
  });
}

}  // namespace yolov12_kernels
